"""The headless door: what each command writes and says, and how it refuses."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from unlearn_core import settings
from unlearn_core.__main__ import main
from unlearn_core.cli import commands, generate
from unlearn_core.cli.concepts import with_pictures
from unlearn_core.cli.parser import build_parser
from unlearn_core.cli.terminal import ProgressBar
from unlearn_core.concept import Concept, Nameless
from unlearn_core.errors import UnlearnError
from unlearn_core.files.pictures import read_pictures
from unlearn_core.loaders.demo_model import demo_folder
from unlearn_core.loaders.diffusers_model import DiffusersModel, load_model
from unlearn_core.lora.file import load_lora
from unlearn_core.measuring import drawing, evaluation, strength_curve
from unlearn_core.models import denoising
from unlearn_core.progress import Progress, stop_if_asked
from unlearn_core.reporting import report
from unlearn_core.settings import preset
from unlearn_core.text.embedding_file import load_embedding
from unlearn_core.training import inversion, preview

PICTURES = str(demo_folder() / "pictures" / "dog")
FORGET = ["forget", "--model", "demo", "--preset", "quick", "--steps", "2", "--stand-in", "cat"]
SMALL = {"forget_prompts": 8, "keep_prompts": 16, "stand_in_pictures": 0}


@pytest.fixture(scope="module")
def demo() -> tuple[DiffusersModel, str]:
    return load_model("demo")


@pytest.fixture(autouse=True)
def small_and_fast(demo: tuple[DiffusersModel, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo model is loaded once; presets are small; little is drawn."""

    def load(name: str, prediction: Any = "auto") -> tuple[DiffusersModel, str]:
        return demo if (name, prediction) == ("demo", "auto") else load_model(name, prediction)

    monkeypatch.setattr(commands, "load_model", load)
    balanced = {
        "steps": 1,
        "closed_form": True,
        "inversion_steps": 1,
        "inversion_batch": 1,
        "caption_styles": 1,
    }
    for name, changes in (("quick", SMALL), ("balanced", {**SMALL, **balanced})):
        monkeypatch.setitem(settings.PRESETS, name, settings.PRESETS[name].replace(**changes))
    for module, name, value in (
        (evaluation, "PICTURES", {"concept": 2, "synonym": 2}),
        (evaluation, "SHEET_COLUMNS", 2),
        (preview, "PREVIEW_STEPS", 1),
        (strength_curve, "CURVE_PICTURES", 1),
        (strength_curve, "STRENGTHS", (0.0, 1.0)),
        (drawing, "DRAW_STEPS", 1),
        (inversion, "TEST_PICTURES", 2),
        (inversion, "TEST_STEPS", 1),
        (inversion, "READ_TIMESTEPS", (500,)),
    ):
        monkeypatch.setattr(module, name, value)


def entries(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


# --- forget ---------------------------------------------------------------------------------------


def test_forget_writes_the_lora_and_says_what_it_chose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "forget-dog.safetensors"
    words = ["--concept", "(dog:1.4)", "--synonyms", "puppy, ", "--keep", "fox,wolf"]
    assert main([*FORGET[:-2], *words, "--images", PICTURES, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "prediction: v" in said.out
    assert re.search(r"^forgotten: dog, puppy", said.out, re.MULTILINE)
    assert re.search(r"^drawn in its place: \w+ \(chosen by nearness\)$", said.out, re.MULTILINE)
    assert re.search(r"^kept first: fox, wolf, ", said.out, re.MULTILINE)
    assert "note: Learned vectors not used: these settings leave them out." in said.out
    assert f"written: {out}" in said.out
    assert "forgetting" in said.err
    assert not re.search(r"^forgetting", said.out, re.MULTILINE)
    lora = load_lora(out)
    assert lora.metadata["unlearn_concept"] == "dog"
    assert json.loads(lora.metadata["unlearn_settings"])["steps"] == 2
    assert list(tmp_path.rglob("*.*")) == [out]


def test_pictures_that_the_preset_leaves_out_are_read_and_not_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        Image.new("RGB", (1200, 1100), "red").save(tmp_path / f"{number}.png")
    (tmp_path / "a.heic").touch()
    kept = with_pictures(Concept("dog"), tmp_path, preset("balanced"), print).images
    assert [picture.untyped_storage().nbytes() for picture in kept] == [4 * 3 * 1024**2] * 3
    seen = with_pictures(Concept("dog"), tmp_path, preset("quick"), print).images
    assert [picture.untyped_storage().nbytes() for picture in seen] == [4] * 3
    assert [picture.shape for picture in seen] == [picture.shape for picture in kept]
    (found,) = with_pictures(Nameless(), tmp_path, preset("quick"), print).images[:1]
    assert torch.equal(found, kept[0])
    assert f"note: 1 file was left out of {tmp_path}: a.heic; " in capsys.readouterr().out


def test_the_same_seed_gives_the_same_bytes_and_replaces_the_file(tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    out.write_text("old", "utf-8")
    written = []
    for seed in ("5", "5", "6"):
        assert main([*FORGET, "--concept", "dog", "--seed", seed, "--out", str(out)]) == 0
        written.append(out.read_bytes())
    assert written[0] == written[1] != written[2]
    assert entries(tmp_path).keys() == {"a.safetensors"}


def test_flags_that_are_not_given_come_from_the_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[settings.UnlearnSettings] = []

    def note(
        session: object, concept: object, chosen: settings.UnlearnSettings, *_: object
    ) -> None:
        seen.append(chosen)

    monkeypatch.setattr(commands, "forget", note)
    command = ["forget", "--model", "demo", "--concept", "dog", "--out", "x.safetensors"]
    assert main([*command, "--preset", "robust"]) == 0
    flags = ["--rank", "3", "--layers", "first:1", "--steps", "9", "--seed", "4"]
    assert main([*command, "--preset", "paper", *flags]) == 0
    assert seen[0] == settings.PRESETS["robust"]
    changes = {"rank": 3, "layers": "first:1", "steps": 9, "seed": 4}
    assert seen[1] == settings.PRESETS["paper"].replace(**changes)


@pytest.mark.parametrize(
    "name", ["ac/dc", r"c:\dog: a", "CON", "dog...cat", "x/../../etc", "x -dog", "犬"]
)
def test_names_that_file_systems_dislike_can_be_forgotten(tmp_path: Path, name: str) -> None:
    out = tmp_path / "a.safetensors"
    command = [*FORGET, "--steps", "0", "--keep", "fox", f"--concept={name}", "--out", str(out)]
    assert main(command) == 0
    assert load_lora(out).metadata["unlearn_concept"] == name
    assert entries(tmp_path).keys() == {"a.safetensors"}


def test_without_a_name_the_models_own_word_is_forgotten_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoising, "ROUNDS", (1, 1, 4))
    out, report = tmp_path / "a.safetensors", tmp_path / "report"
    command = [*FORGET, "--images", PICTURES, "--out", str(out), "--report", str(report)]
    assert main(command) == 0
    said = capsys.readouterr()
    line = r"^the model's words for these pictures: dog \(\d+\.\d%, clear\), \w+ \("
    assert re.search(line, said.out, re.MULTILINE)
    assert re.search(r"^forgotten: dog, puppy", said.out, re.MULTILINE)
    assert "reading the pictures" in said.err
    assert load_lora(out).metadata["unlearn_concept"] == "dog"
    numbers = json.loads((report / "report.json").read_text("utf-8"))
    assert numbers["concept"] == "dog"
    found = numbers["found_words"]
    assert found["words"][0]["word"] == "dog"
    assert found["words"][0]["gain"] > 0.05
    assert found["synonyms"] == ["puppy"]
    assert found["is_clear"] is True


@pytest.mark.parametrize("name", [[], ["--concept", ""], ["--concept", " () "]])
def test_without_a_name_and_without_pictures_there_is_nothing_to_forget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: list[str]
) -> None:
    assert main([*FORGET, *name, "--out", str(tmp_path / "a.safetensors")]) == 1
    assert "give --concept NAME, or --images DIR" in capsys.readouterr().err
    assert entries(tmp_path) == {}


def test_a_report_and_the_learned_vectors_are_written_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, vectors = tmp_path / "a.safetensors", tmp_path / "dog-concept-1.safetensors"
    command = [
        "forget", "--model", "demo", "--concept", "dog", "--images", PICTURES, "--out", str(out),
        "--report", str(tmp_path / "report"), "--embedding", str(vectors),
    ]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    assert load_embedding(vectors).shape == (1, 192)
    assert f"written: {vectors}. It is a recipe" in said
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {*report.FILES}
    assert re.search(r"forgotten: .*a classifier .* before.*; its prompts moved", said)
    assert "kept: " in said
    assert "strength: use 1;" in said
    assert load_lora(out).metadata["unlearn_judged_by"] == "a classifier"
    assert f"written: {tmp_path / 'report' / 'report.json'}" in said


def test_stopping_while_measuring_keeps_the_lora_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        stop_if_asked(arguments[4])

    monkeypatch.setattr(commands, "evaluate", interrupted)
    out, report = tmp_path / "a.safetensors", tmp_path / "report"
    command = [*FORGET, "--concept", "dog", "--out", str(out), "--report", str(report)]
    assert main(command) == 130
    assert f"{out} is written, the report is not" in capsys.readouterr().err
    assert entries(tmp_path).keys() == {"a.safetensors"}


def test_a_loss_that_is_not_a_number_ends_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = commands.unlearn

    def absurd(model: Any, concept: Any, chosen: Any, monitor: Any, **said: Any) -> Any:
        object.__setattr__(chosen, "learning_rate", 1e30)
        return honest(model, concept, chosen, monitor, **said)

    monkeypatch.setattr(commands, "unlearn", absurd)
    out = tmp_path / "a.safetensors"
    assert main([*FORGET, "--steps", "4", "--concept", "dog", "--out", str(out)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: The loss is ")
    assert entries(tmp_path) == {}


# --- hostile input --------------------------------------------------------------------------------


def png_header(path: Path, width: int, height: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(b"\0")), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder of bad pictures and bad models, and a file where a folder should be."""
    for name in ("corrupt", "tiny", "huge", "none", "plots", "good"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "good" / "a.png")
    (tmp_path / "plots" / "loss.png").write_bytes(b"of another program")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "corrupt" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"nonsense" * 9)
    Image.new("RGB", (1, 1)).save(tmp_path / "tiny" / "a.png")
    png_header(tmp_path / "huge" / "a.png", 20000, 20000)
    save_file(
        {
            "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3),
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (
                torch.zeros(320, 768)
            ),
            "first_stage_model.quant_conv.weight": torch.zeros(8, 8, 1, 1),
            "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (
                torch.zeros(9, 768)
            ),
        },
        tmp_path / "sd1.safetensors",
    )
    whole = (tmp_path / "sd1.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "pickle.safetensors").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "file").write_text("not a folder", "utf-8")
    return tmp_path


OUT = ["--out", "{here}/out/a.safetensors"]
DOG = ["--concept", "dog"]
PRESETS_AND_WORDS = ["forget", "--model", "demo", "--preset", "quick", "--steps", "2"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([*DOG, *OUT, "--images", "{here}/corrupt"], "a.png can't be read as a picture"),
        ([*DOG, *OUT, "--images", "{here}/tiny"], "Picture 1 is 1x1 pixels; at least 32"),
        ([*DOG, *OUT, "--images", "{here}/huge"], "a.png"),
        ([*DOG, *OUT, "--images", "{here}/none"], "There is no picture in"),
        ([*DOG, *OUT, "--images", "{here}/missing"], "There is no folder"),
        (["--concept", "", *OUT], "Nothing says what is to be forgotten"),
        (["--concept", "( )", *OUT], "Nothing says what is to be forgotten"),
        (["--concept", "dog " * 50, *OUT], "50 tokens long"),
        ([*DOG, *OUT, "--stand-in", "DOG"], "is the concept itself"),
        ([*DOG, *OUT, "--stand-in", "zeppelin"], "no word vector for the stand-in 'zeppelin'"),
        ([*DOG, *OUT, "--keep", "dog"], "can't be forgotten and kept"),
        ([*DOG, *OUT, "--model", "{here}/sd1.safetensors"], "sd1.safetensors lacks "),
        ([*DOG, *OUT, "--model", "{here}/cut.safetensors"], "safetensors"),
        ([*DOG, *OUT, "--model", "{here}/pickle.ckpt"], "pickle"),
        ([*DOG, *OUT, "--model", "{here}/pickle.safetensors"], "pickle"),
        ([*DOG, *OUT, "--model", "{here}/none"], "no model_index.json"),
        ([*DOG, *OUT, "--model", "nonsense"], 'There is no "nonsense"'),
        ([*DOG, *OUT, "--rank", "0"], "rank is 0; it must lie between 1 and 128"),
        ([*DOG, *OUT, "--seed", "-1"], "seed is -1"),
        ([*DOG, *OUT, "--layers", "last:0"], "layers is 'last:0'"),
        ([*DOG, *OUT, "--layers", "last:99"], "used up to layer 5"),
        ([*DOG, *OUT, "--preset", "paper"], "they need pictures"),
        ([*DOG, "--out", "{here}/file/a.safetensors"], "is a file, so it can't hold"),
        ([*DOG, "--out", "{here}/file/b/a.safetensors"], "is a file, so it can't hold"),
        ([*DOG, "--out", "{here}/none"], "must end in .safetensors"),
        ([*DOG, "--out", "{here}/" + "x" * 300 + ".safetensors"], "can't be written"),
        ([*DOG, *OUT, "--report", "{here}/file"], "is a file, so it can't hold"),
        ([*DOG, *OUT, "--report", "{here}/a\0b"], "can't be written"),
        ([*DOG, *OUT, "--report", "{here}/loop"], "can't be written"),
        ([*DOG, *OUT, "--report", "{here}/good", "--images", "{here}/good"], "holds what this"),
        ([*DOG, *OUT, "--report", "{here}/plots"], "holds a loss.png that is not of a report"),
        ([*DOG, *OUT, "--images", "{here}/" + "x" * 300], "can't be read"),
        ([*DOG, *OUT, "--images", "{here}/a\0b"], "can't be read"),
        ([*DOG, "--out", "{here}/a\0b.safetensors"], "can't be written"),
        ([*DOG, "--out", "{here}/pipe.safetensors"], "is no regular file"),
        ([*DOG, "--out", "{here}/x\udcff.safetensors"], "is not UTF-8"),
        ([*DOG, "--out", "{demo}/text_encoder/model.safetensors"], "the model is only read"),
        ([*DOG, *OUT, "--report", "{demo}"], "the model is only read"),
        (
            ["--model", "{here}/sd1.safetensors", *DOG, "--out", "{here}/sd1.safetensors"],
            "the model is only read",
        ),
        ([*DOG, *OUT, "--embedding", "{here}/my-dog-1.safetensors"], "give --images"),
        ([*DOG, *OUT, "--embedding", "{here}/dog.safetensors"], "as a plain word"),
        ([*DOG, *OUT, "--embedding", "{here}/a b-1.safetensors"], "ComfyUI can't find"),
    ],
)
def test_hostile_input_is_refused_in_one_line_and_nothing_is_written(
    hostile: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    before = entries(hostile)
    model = str(demo_folder() / "model")
    filled = [flag.replace("{here}", str(hostile)).replace("{demo}", model) for flag in flags]
    assert main([*PRESETS_AND_WORDS, *filled]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert said in errors[0]
    assert entries(hostile) == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["invert", *DOG, "--images", PICTURES, "--out", "{demo}/my-dog-1.safetensors"],
            "only read",
        ),
        (["generate", "--prompt", "a", "--out", "{demo}/pictures"], "the model is only read"),
        (["generate", "--prompts", "/dev/zero", "--out", "{here}/p"], "is no regular file"),
        (["generate", "--prompts", "{here}/" + "x" * 300, "--out", "{here}/p"], "can't be read"),
        (
            ["generate", "--prompt", "a", "--lora", "x" * 300 + ":1", "--out", "{here}/p"],
            "can't be read",
        ),
        (["measure", "--lora", "{here}/a.safetensors", "--report", "{demo}/../"], "choose another"),
        (["measure", "--lora", "{here}/r/report.json", "--report", "{here}/r"], "not of a report"),
        (["demo", "--out", "{here}"], "not a LoRA"),
    ],
)
def test_no_command_writes_over_what_it_reads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    said: str,
) -> None:
    monkeypatch.delattr(commands, "load_model")
    for name in ("a.safetensors", "b.safetensors", "r/report.json", "forget-dog.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_file({"a": torch.ones(1)}, tmp_path / name)
    before = entries(tmp_path)
    model = str(demo_folder() / "model")
    filled = [flag.replace("{here}", str(tmp_path)).replace("{demo}", model) for flag in flags]
    chosen = [] if flags[0] == "demo" else ["--model", "demo"]
    assert main([*filled, *chosen]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert said in error
    assert entries(tmp_path) == before


def test_a_tilde_is_expanded_and_the_whole_path_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    assert main([*FORGET, "--steps", "0", *DOG, "--out=~/a.safetensors"]) == 0
    assert main([*FORGET, "--steps", "0", *DOG, "--out", "b.safetensors"]) == 0
    said = capsys.readouterr().out
    assert f"written: {tmp_path / 'home' / 'a.safetensors'}\n" in said
    assert f"written: {tmp_path / 'here' / 'b.safetensors'}\n" in said
    assert set(entries(tmp_path)) == {"home", "home/a.safetensors", "here", "here/b.safetensors"}


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_read_only_folder_is_noticed_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(commands, "load_model")
    tmp_path.chmod(0o500)
    try:
        assert main([*FORGET, *DOG, "--out", str(tmp_path / "a.safetensors")]) == 1
    finally:
        tmp_path.chmod(0o700)
    assert "Nothing can be written in" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        [*FORGET, *DOG, "--out", "x.safetensors", "--nonsense", "1"],
        [*FORGET, *DOG, "--out", "x.safetensors", "--kin", "style"],
        [*FORGET, *DOG, "--out", "x.safetensors", "--kind", "smell"],
        [*FORGET, *DOG, "--out", "x.safetensors", "--preset", "slow"],
        [*FORGET, *DOG, "--out", "x.safetensors", "--rank", "many"],
        [*FORGET, *DOG, "--list", "x.jsonl", "--out", "x"],
        ["generate", "--model", "demo", "--out", "x"],
        ["generate", "--model", "demo", "--out", "x", "--prompt", "a", "--prompts", "b"],
        ["generate", "--model", "demo", "--out", "x", "--prompt", "a", "--size", "big"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: python -m unlearn_core" in capsys.readouterr().err


# --- invert, generate, measure, demo --------------------------------------------------------------


def test_invert_writes_vectors_that_generate_takes_as_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my-dog-1.safetensors"
    command = ["invert", "--model", "demo", *DOG, "--images", PICTURES, "--out", str(out)]
    assert main([*command, "--steps", "1"]) == 0
    said = capsys.readouterr().out
    assert load_embedding(out).shape == (1, 192)
    assert "in prompts write: my-dog-1" in said
    draw = ["generate", "--model", "demo", "--embedding", str(out), "--steps", "1"]
    assert main([*draw, "--prompt", "a my-dog-1", "--out", str(tmp_path / "a")]) == 0
    assert "has no effect" not in capsys.readouterr().out
    assert main([*draw, "--prompt", "a cat", "--out", str(tmp_path / "b")]) == 0
    assert "no prompt says 'my-dog-1'" in capsys.readouterr().out


def test_generate_names_pictures_after_lines_and_refuses_a_folder_with_pngs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "pictures"
    prompts.write_text("a photo of a dog\n\na photo of a cat\n", "utf-8")
    command = ["generate", "--model", "demo", "--prompts", str(prompts), "--out", str(out)]
    command += ["--count", "2", "--steps", "1", "--size", "72x64", "--negative", "blurry"]
    assert main(command) == 0
    names = [f"{line:04}-{copy}.png" for line in range(3) for copy in range(2)]
    assert sorted(path.name for path in out.iterdir()) == names
    with Image.open(out / "0000-0.png") as picture:
        assert picture.size == (72, 64)
    assert f"written: 6 pictures in {out}" in capsys.readouterr().out
    before = entries(tmp_path)
    assert main(command) == 1
    assert "already holds 6 PNG files, the first is 0000-0.png" in capsys.readouterr().err
    assert entries(tmp_path) == before


def test_a_lora_at_strength_0_gives_the_same_files(tmp_path: Path) -> None:
    lora = tmp_path / "a.safetensors"
    assert main([*FORGET, *DOG, "--out", str(lora)]) == 0
    draw = ["generate", "--model", "demo", "--prompt", "a photo of a dog", "--steps", "3"]
    for name, flags in (("base", []), ("off", [f"{lora}:0"]), ("on", [str(lora)])):
        added = [part for flag in flags for part in ("--lora", flag)]
        assert main([*draw, *added, "--out", str(tmp_path / name)]) == 0
    base, off, on = ((tmp_path / n / "0000-0.png").read_bytes() for n in ("base", "off", "on"))
    assert base == off
    assert base != on


FC1 = "encoder.layers.5.mlp.fc1"


def small_lora(path: Path, up: float, **metadata: str) -> Path:
    tensors = {
        f"text_encoder.text_model.{FC1}.lora_A.weight": torch.ones(1, 192),
        f"text_encoder.text_model.{FC1}.lora_B.weight": torch.full((768, 1), up),
    }
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize(
    ("up", "strength", "said"),
    [
        (1e3, "1e38", "At strength 1e+38 this LoRA makes fc1 of text layer 5 not finite"),
        (3e38, "1", "The model's text encoder gives numbers that are not finite"),
    ],
)
def test_a_lora_that_is_too_strong_draws_no_black_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], up: float, strength: str, said: str
) -> None:
    lora, out = small_lora(tmp_path / "a.safetensors", up), tmp_path / "out"
    command = ["generate", "--model", "demo", "--prompt", "a dog", "--steps", "1"]
    assert main([*command, "--lora", f"{lora}:{strength}", "--out", str(out)]) == 1
    assert said in capsys.readouterr().err
    assert not list(out.glob("*.png")) if out.exists() else True


def test_measure_never_says_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora, report = small_lora(tmp_path / "a.safetensors", 3e38), tmp_path / "report"
    command = ["measure", "--model", "demo", "--lora", str(lora), "--concept", "dog"]
    assert main([*command, "--report", str(report)]) == 1
    said = capsys.readouterr()
    assert "gives numbers that are not finite" in said.err
    assert "nan" not in said.out
    assert not report.exists()


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--prompt", "a dog", "--steps", "1", "--out", "OUT", "--lora"],
        ["measure", "--concept", "dog", "--report", "OUT", "--lora"],
    ],
)
def test_a_lora_without_alpha_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    command = [str(tmp_path / "out") if part == "OUT" else part for part in command]
    said = json.dumps({"text_encoder.r": 1, "text_encoder.lora_alpha": 2})
    for name, metadata, is_noted in (
        ("a", {}, True),
        ("b", {"lora_adapter_metadata": said}, False),
    ):
        lora = small_lora(tmp_path / f"{name}.safetensors", 1e-3, **metadata)
        assert main([*command, str(lora), "--model", "demo"]) == 0
        shown = capsys.readouterr().out
        assert (f"note: {name}.safetensors does not say its alpha" in shown) == is_noted
        shutil.rmtree(tmp_path / "out")


def test_a_lora_that_says_damaged_words_can_be_measured_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = small_lora(tmp_path / "a.safetensors", 1e-3, unlearn_names="[1, 2]")
    command = ["measure", "--model", "demo", "--lora", str(lora), "--report", str(tmp_path / "r")]
    assert main(command) == 1
    assert "does not say what it forgets; name the concept" in capsys.readouterr().err
    assert main([*command, "--concept", "dog"]) == 0
    assert "note: what a.safetensors says that it forgets can't be read" in capsys.readouterr().out


def test_a_tag_of_the_webui_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(commands, "load_model")
    (tmp_path / "p.txt").write_text("a dog\na dog <lora:forget-dog:1>\n", "utf-8")
    command = ["generate", "--model", "demo", "--prompts", str(tmp_path / "p.txt")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    assert "<lora:forget-dog:1>, which only the WebUI reads" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--prompt", "a", "--out", "OUT", "--model", "demo", "--lora", "BAD"],
        ["generate", "--prompt", "a", "--out", "OUT", "--model", "demo", "--embedding", "BAD"],
        ["generate", "--prompt", "a", "--out", "OUT", "--model", "BAD"],
        ["measure", "--report", "OUT", "--model", "demo", "--lora", "BAD"],
    ],
)
def test_what_is_no_regular_file_is_one_line_and_never_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for bad, said in ((tmp_path / "pipe", "no regular file"), ("/dev/zero", "no regular file"),
                      ("x" * 300, "can't be read")):  # fmt: skip
        named = {"BAD": str(bad), "OUT": str(tmp_path / "out")}
        assert main([named.get(part, part) for part in command]) == 1
        assert said in capsys.readouterr().err


def test_stopping_generate_says_how_many_pictures_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(path: Path, content: bytes) -> None:
        path.write_bytes(content)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(generate, "write_whole", interrupted)
    monkeypatch.setattr("unlearn_core.cli.drawing.BATCH", 1)
    draw = ["generate", "--model", "demo", "--prompt", "a dog", "--steps", "1", "--count", "3"]
    assert main([*draw, "--out", str(tmp_path / "a")]) == 130
    assert "1 of 3 pictures are in" in capsys.readouterr().err


def test_measure_reads_from_the_lora_what_it_forgets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora, folder = tmp_path / "a.safetensors", tmp_path / "report"
    forget = [*FORGET, *DOG, "--synonyms", "puppy", "--keep", "fox", "--out", str(lora)]
    assert main(forget) == 0
    capsys.readouterr()
    command = ["measure", "--model", "demo", "--lora", str(lora), "--report", str(folder)]
    command += ["--also", "loyal pet", "--also", "Hund"]
    folder.mkdir()
    older = {"concept": "cat", "strengths": [], "recommended_strength": 1.0}
    (folder / "report.json").write_text(json.dumps(older), "utf-8")
    (folder / "loss.png").write_bytes(b"of an older report")
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "stand-in: cat; kept first: fox, " in said
    numbers = json.loads((folder / "report.json").read_text("utf-8"))
    assert (numbers["concept"], numbers["stand_in"]) == ("dog", "cat")
    assert "puppy" in numbers["names"]
    described = [p["word"] for p in numbers["pictures"] if p["role"] == "description"]
    assert described == ["loyal pet", "Hund"]
    assert {path.name for path in folder.iterdir()} == {*report.FILES} - {"loss.png"}
    assert main([*command, "--concept", "bee", "--stand-in", "owl", "--seed", "3"]) == 0
    assert "says that it forgets 'dog'" in capsys.readouterr().out
    numbers = json.loads((folder / "report.json").read_text("utf-8"))
    assert (numbers["concept"], numbers["stand_in"], numbers["seed"]) == ("bee", "owl", 3)


def test_measure_asks_for_the_concept_when_the_lora_is_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = tmp_path / "a.safetensors"
    tensors = {
        "lora_te_text_model_encoder_layers_5_mlp_fc1.lora_down.weight": torch.ones(1, 192),
        "lora_te_text_model_encoder_layers_5_mlp_fc1.lora_up.weight": torch.ones(768, 1),
    }
    save_file(tensors, lora)
    report = tmp_path / "report"
    command = ["measure", "--model", "demo", "--lora", str(lora), "--report", str(report)]
    assert main(command) == 1
    assert "does not say what it forgets: give --concept" in capsys.readouterr().err
    assert not report.exists()


def test_the_demo_says_five_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "LoRA", "pictures and numbers", "forgotten", "kept", "strength",
    ]  # fmt: skip
    assert load_lora(tmp_path / "demo" / "forget-dog.safetensors").pairs
    assert (tmp_path / "demo" / "report" / "contact-sheet.png").is_file()


def test_the_judge_names_objects_or_styles() -> None:
    for kind, folder, name in (("object", "dog", "dog"), ("style", "sketch", "sketch")):
        judge = commands.evaluation_judge(kind)
        pictures = torch.stack(read_pictures(demo_folder() / "pictures" / folder))
        assert judge.look(pictures, name) == (name,) * 5
        assert judge.look(pictures, "qwertz") == ()


# --- help, progress, Ctrl-C -----------------------------------------------------------------------

FLAGS = {
    "forget": "model concept images synonyms stand-in keep kind prediction preset seed steps rank "
    "layers out report embedding list ray",
    "invert": "model images concept out kind steps seed prediction",
    "generate": "model prompt prompts lora embedding seed count size steps guidance negative out",
    "measure": "model lora concept report kind synonyms stand-in also seed prediction",
    "demo": "out",
}


@pytest.mark.parametrize("command", FLAGS)
def test_help_lists_every_flag_and_shows_an_example_that_parses(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert [flag for flag in FLAGS[command].split() if f"--{flag}" not in text] == []
    example = text.split("example:\n")[1].split("\n\n")[0].replace("\\\n", " ")
    words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', example)]
    assert words[:3] == ["python", "-m", "unlearn_core"]
    assert build_parser().parse_args(words[3:]).command == command


def test_help_shows_the_settings_own_words_and_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["forget", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"{settings.help_of('rank')} (1 to 128; default: the preset's)" in text
    assert all(name in text for name in settings.PRESETS)


@pytest.fixture
def handler_stays() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("handler_stays")
def test_the_first_ctrl_c_asks_to_stop_and_the_second_stops_at_once() -> None:
    with ProgressBar() as monitor:
        assert not monitor.should_stop()
        signal.raise_signal(signal.SIGINT)
        assert monitor.should_stop()
        assert monitor.should_stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with ProgressBar() as another:
        assert not another.should_stop()


@pytest.mark.usefixtures("handler_stays")
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_the_command_with_130_and_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    presses: int,
) -> None:
    honest = commands.unlearn

    def interrupted(*arguments: Any, **said: Any) -> Any:
        for _ in range(presses):
            signal.raise_signal(signal.SIGINT)
        return honest(*arguments, **said)

    monkeypatch.setattr(commands, "unlearn", interrupted)
    assert main([*FORGET, *DOG, "--out", str(tmp_path / "a.safetensors")]) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: Stopped")
    assert entries(tmp_path) == {}


def test_each_stage_has_a_bar_with_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar() as monitor:
        for stage in ("learning the concept", "forgetting"):
            for step in (1, 2):
                monitor.report(Progress(stage, step, 2, loss=0.25))
        monitor.report(Progress("drawing", 1, 3))
    said = capsys.readouterr()
    assert said.out == ""
    for part in ("learning the concept: 100%", "forgetting: 100%", "2/2", "loss=0.25", "drawing"):
        assert part in said.err


def test_a_stage_that_ends_early_has_a_whole_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar() as monitor:
        for step, total in ((1, 150), (2, 150), (3, 3)):
            monitor.report(Progress("forgetting", step, total))
    assert "3/3" in capsys.readouterr().err


@pytest.mark.usefixtures("handler_stays")
@pytest.mark.parametrize("raised", [UnlearnError("a\n b"), torch.cuda.OutOfMemoryError("CUDA")])
def test_errors_are_one_line_and_others_keep_their_traceback(
    raised: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(error: BaseException) -> Callable[..., None]:
        def run(*_: object) -> None:
            raise error

        return run

    monkeypatch.setattr(commands, "demo", fail(raised))
    assert main(["demo"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    monkeypatch.setattr(commands, "demo", fail(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        main(["demo"])
