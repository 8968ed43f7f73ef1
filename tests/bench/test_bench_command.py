"""`python -m bench`: every command says what it is for, and does one small step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from bench.__main__ import COMMANDS, main
from bench.attacks import pictures as attack_pictures
from bench.cost import full_size, machine, memory
from bench.cost.random_model import Host
from bench.cost.report_memory import report_peaks
from bench.emoji_canvas.pictures import Painter
from bench.emoji_canvas.training import rebuild
from bench.jobs.plan import Plan
from bench.protocol import task_pictures
from bench.protocol.layout import Sizes
from bench.protocol.setup import ModelChoice
from bench.trials import ablations, found_words, self_judge, stand_in_floor, typed_names
from unlearn_core.models.families import SD2

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"
FEW = Sizes(name=2, near=1, other=1, pair=1)


@pytest.mark.parametrize(
    "words",
    [
        *COMMANDS, "trial found_words", "trial typed_names", "trial stand_in_floor",
        "trial self_judge", "trial self_judge_cost",
        "world rebuild", "world families", "world strips",
    ],
)  # fmt: skip
def test_every_command_has_a_help(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m bench {words} ")


def test_the_help_of_all_commands_needs_no_torch(in_fresh_process: Callable[..., str]) -> None:
    code = (
        "import sys\nfrom bench.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    print('torch' in sys.modules)"
    )
    assert in_fresh_process(code).splitlines()[-1] == "False"


@pytest.mark.parametrize("words", [[], ["nothing"], ["trial", "nothing"], ["world", "nothing"]])
def test_an_unknown_command_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_an_error_of_the_users_is_one_line() -> None:
    with pytest.raises(SystemExit, match="Unknown stage: nothing"):
        main(["run", "--stages", "nothing"])


def test_run_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = "--quick --stages main --concepts neon --methods base,negative_prompt --steps 1"
    main(["run", *asked.split(), "--out", str(tmp_path)])
    assert "2/2 main, neon, negative_prompt, seed 0" in capsys.readouterr().out
    tables = tmp_path / "report" / "tables.md"
    first = tables.read_text("utf-8")
    tables.unlink()
    main(["report", str(tmp_path)])
    assert tables.read_text("utf-8") == first


def test_report_reads_the_kept_rows(tmp_path: Path) -> None:
    for name in ("rows.jsonl", "attacks.jsonl"):
        shutil.copy(RESULTS / "ablations" / name, tmp_path)
    main(["report", str(tmp_path)])
    assert "| balanced:" in (tmp_path / "report" / "tables.md").read_text("utf-8")


def test_ablate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablations, "FAMILIES", {"few": ("negative_prompt", "negative_prompt:0")})
    monkeypatch.setattr(ablations, "CONCEPTS", ("sketch",))
    monkeypatch.setattr(ablations, "SIZES", FEW)
    monkeypatch.setattr(ablations, "Plan", partial(Plan, seeds=(0,)))
    monkeypatch.setattr(ablations, "ModelChoice", partial(ModelChoice, steps=1))
    main(["ablate", "--out", str(tmp_path)])
    assert "| negative_prompt:0 |" in (tmp_path / "ablations.md").read_text("utf-8")
    assert (tmp_path / "few.png").exists()


def test_trial_found_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, few in (("TUNING", ("sketch",)), ("CONTROLS", ()), ("SEEDS", (0,))):
        monkeypatch.setattr(found_words, name, few)
    main(["trial", "found_words", "--json", str(tmp_path / "rows.json")])
    (row,) = json.loads((tmp_path / "rows.json").read_text("utf-8"))
    assert (row["concept"], row["rank"]) == ("sketch", 1)
    assert json.loads(capsys.readouterr().out) == row


def test_trial_typed_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(typed_names, "PICTURES", 2)
    main(["trial", "typed_names", "--names", "dogs"])
    assert "| 'dogs' | dog | horse | dog: 2 -> 0" in capsys.readouterr().out


def test_trial_stand_in_floor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stand_in_floor, "FULL", FEW)
    main(["trial", "stand_in_floor", "--rows", str(RESULTS / "run"), "--concepts", "bus"])
    assert "| bus | airplane | " in capsys.readouterr().out


def test_trial_self_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(self_judge, "COUNTS", {"concept": 3, "synonym": 1, "near": 1, "far": 1})
    monkeypatch.setattr(self_judge, "FAR", 1)
    main(["trial", "self_judge", "--concepts", "car", "--methods", "base", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "| concept | 4 | 0 | 0 | 0 |" in said
    numbers = json.loads((tmp_path / "demo.json").read_text("utf-8"))
    assert numbers["read"]["car, base"]["concept / concept"] == 4
    assert numbers["misread"] == []


def test_trial_self_judge_cost(capsys: pytest.CaptureFixture[str]) -> None:
    main(["trial", "self_judge_cost", "--pictures", "1", "--rounds", "1"])
    assert "reading / drawing: " in capsys.readouterr().out


def test_cost_goes_on_from_the_kept_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(RESULTS / "cost" / "cost.json", tmp_path)
    main(["cost", "--out", str(tmp_path), "--heights", "1,20"])
    aims = (RESULTS / "cost" / "aims.md").read_text("utf-8")
    assert (tmp_path / "aims.md").read_text("utf-8") == aims
    assert aims in capsys.readouterr().out


def test_full_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "MATMUL", 64)
    monkeypatch.setattr(machine, "COPIED", 2**20)
    narrow = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 1}
    small = partial(Host, layers=3, changes={"text_encoder": narrow})
    monkeypatch.setattr(full_size, "Host", small)
    preset = "quick:forget_prompts=8+keep_prompts=8"
    file = tmp_path / "numbers.json"
    main(["full-size", "--device", "cpu", "--preset", preset, "--json", str(file)])
    assert json.loads(file.read_text("utf-8"))["method"] == preset
    assert capsys.readouterr().out.startswith(f"{preset}, dog, 512 pixels")


def test_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(memory, "COMPARED", ((SD2, 1, 8),))
    main(["memory"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| Stable Diffusion 2 | 1 | 64 px | kept for the way back |")
    assert any(line.startswith("| `balanced` |") for line in lines)


def test_a_report_holds_no_more_than_is_planned_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "report_peaks", partial(report_peaks, 64, 2))
    main(["memory", "--report"])
    planned, held = capsys.readouterr().out.splitlines()
    assert planned.startswith("planned: about 0.")
    assert held.startswith("held at most: run 0.")


def test_world_strips(tmp_path: Path, painter: Painter, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (task_pictures, attack_pictures):
        monkeypatch.setattr(module, "FOLDER", tmp_path / module.__name__)
    monkeypatch.setattr(rebuild, "load_drawings", lambda folder: painter.drawings)
    main(["world", "strips", str(tmp_path)])
    for module, count in ((task_pictures, 5), (attack_pictures, 8)):
        kept = RESULTS.parent.joinpath(*module.__name__.split(".")[1:])
        painted = {file.name: Image.open(file).size for file in module.FOLDER.iterdir()}
        assert painted == {file.name: (64 * count, 64) for file in kept.iterdir()}
