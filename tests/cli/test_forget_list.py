"""A list of concepts, forgotten one by one: what is written, and that nothing is lost or redone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch

from unlearn_core import settings
from unlearn_core.__main__ import main
from unlearn_core.cli import commands, forget_list, workers
from unlearn_core.cli.concepts import Entry, read_list
from unlearn_core.cli.workers import Order, Outcomes
from unlearn_core.concept import Concept
from unlearn_core.errors import BadConcept, BadFile, Cancelled
from unlearn_core.files import output_files
from unlearn_core.files.output_files import png_bytes
from unlearn_core.lora.file import load_lora
from unlearn_core.lora.metadata import all_from_metadata
from unlearn_core.measuring import drawing, evaluation, strength_curve
from unlearn_core.progress import RunMonitor
from unlearn_core.reporting.report import FILES
from unlearn_core.settings import UnlearnSettings, preset

TINY = {"forget_prompts": 8, "keep_prompts": 8, "steps": 2, "batch_size": 2, "rank": 2}
LINES = ('{"concept": "dog", "synonyms": ["puppy"]}', '{"concept": "cat"}', '{"concept": "car"}')
NAMES = ["forget-car.safetensors", "forget-cat.safetensors", "forget-dog.safetensors"]


@pytest.fixture(autouse=True)
def tiny_and_fast(monkeypatch: pytest.MonkeyPatch) -> tiny_model.TinyModel:
    """The tiny model stands for "demo", and `quick` is small."""
    model = tiny_model.TinyModel()
    monkeypatch.setattr(commands, "load_model", lambda *_: (model, "prediction: v"))
    monkeypatch.setattr(workers, "evaluation_judge", lambda _: None)
    monkeypatch.setitem(settings.PRESETS, "quick", settings.PRESETS["quick"].replace(**TINY))
    for module, name, value in (
        (evaluation, "PICTURES", {"concept": 1}),
        (evaluation, "SHEET_COLUMNS", 1),
        (drawing, "DRAW_STEPS", 1),
        (strength_curve, "CURVE_PICTURES", 1),
        (strength_curve, "STRENGTHS", (0.0, 1.0)),
    ):
        monkeypatch.setattr(module, name, value)
    return model


def write_list(folder: Path, *lines: str) -> Path:
    path = folder / "concepts.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def run(folder: Path, *more: str) -> int:
    command = ["forget", "--model", "demo", "--preset", "quick"]
    return main(
        [*command, "--list", str(folder / "concepts.jsonl"), "--out", str(folder / "out"), *more]
    )


def journal(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "out" / "forgotten.jsonl").read_text("utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def loras(folder: Path) -> dict[str, bytes]:
    files = sorted((folder / "out").iterdir())
    return {file.name: file.read_bytes() for file in files if file.name != "forgotten.jsonl"}


def forgotten_now(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The concepts that are forgotten from here on, as they begin."""
    begun: list[str] = []
    honest = workers.unlearn

    def noted(model: Any, concept: Concept, *rest: Any, **said: Any) -> Any:
        begun.append(concept.name)
        return honest(model, concept, *rest, **said)

    monkeypatch.setattr(workers, "unlearn", noted)
    return begun


# --- what is written ------------------------------------------------------------------------------


def test_each_concept_gets_a_lora_and_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_and_fast: tiny_model.TinyModel
) -> None:
    write_list(tmp_path, *LINES, "")
    assert run(tmp_path) == 0
    assert list(loras(tmp_path)) == NAMES
    records = journal(tmp_path)
    assert [record["concept"] for record in records] == ["dog", "cat", "car"]
    for record in records:
        file = tmp_path / "out" / record["file"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == record["sha256"]
        assert load_lora(file).metadata["unlearn_stand_in"] == record["stand_in"]
        assert record["preset"] == "quick"
        assert record["seconds"] >= 0
        assert "Learned vectors not used: no pictures." in record["notes"]
    dog = load_lora(tmp_path / "out" / "forget-dog.safetensors").metadata
    assert json.loads(dog["unlearn_synonyms"]) == ["puppy"]
    assert dog["ss_output_name"] == "forget-dog"
    said = capsys.readouterr().out
    assert "dog: forget-dog.safetensors, " in said
    assert "(3 of 3)" in said


def test_a_listed_concept_gets_the_file_that_a_single_command_writes(tmp_path: Path) -> None:
    write_list(tmp_path, LINES[0])
    assert run(tmp_path) == 0
    single = tmp_path / "forget-dog.safetensors"
    command = ["forget", "--model", "demo", "--preset", "quick", "--concept", "dog"]
    assert main([*command, "--synonyms", "puppy", "--out", str(single)]) == 0
    assert loras(tmp_path) == {"forget-dog.safetensors": single.read_bytes()}


def test_every_key_of_a_line_reaches_the_concept(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png_bytes(torch.zeros(3, 32, 32)))
    line = {
        "concept": "anime", "synonyms": ["manga"], "kind": "style", "stand_in": "fresco",
        "keep": ["mosaic"], "images": "pictures",
    }  # fmt: skip
    (entry,) = read_list(write_list(tmp_path, json.dumps(line)), UnlearnSettings())
    concept = entry.read(UnlearnSettings())
    assert len(concept.images) == 1
    wanted = Concept("anime", ("manga",), "style", "fresco", ("mosaic",))
    assert concept.replace(images=()) == wanted


def test_pictures_are_held_where_the_settings_use_them_and_files_left_out_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "dogs"
    folder.mkdir()
    (folder / "a.png").write_bytes(png_bytes(torch.zeros(3, 32, 32)))
    (folder / "b.heic").touch()
    line = json.dumps({"concept": "dog", "images": "dogs"})
    (entry,) = read_list(write_list(tmp_path, line), UnlearnSettings())
    (held,) = entry.read(preset("balanced")).images
    (seen,) = entry.read(preset("quick")).images
    assert held.untyped_storage().nbytes() == 4 * 3 * 32**2
    assert seen.untyped_storage().nbytes() == 4
    assert run(tmp_path) == 0
    said = capsys.readouterr().out
    assert f"note: dog: 1 file was left out of {folder}: b.heic; " in said


def test_reports_lie_in_a_folder_for_each_concept_and_are_made_later_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_list(tmp_path, LINES[1])
    assert run(tmp_path) == 0
    before = loras(tmp_path)
    begun = forgotten_now(monkeypatch)
    report = tmp_path / "reports"
    for _ in range(2):
        assert run(tmp_path, "--report", str(report)) == 0
    assert begun == ["cat"]
    names = {file.name for file in (report / "forget-cat").iterdir()}
    assert names == {*FILES}
    assert loras(tmp_path).keys() == before.keys()
    file = tmp_path / "out" / "forget-cat.safetensors"
    assert load_lora(file).metadata["unlearn_judged_by"] == "the unchanged model"
    (record,) = journal(tmp_path)
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("dog", "forget-dog"),
        ("Van  Gogh", "forget-van-gogh"),
        ("van-gogh", r"forget-van-gogh-[0-9a-f]{8}"),
        ("AC/DC", r"forget-ac-dc-[0-9a-f]{8}"),
        ("con", r"forget-con-concept-[0-9a-f]{8}"),
        ("犬", "forget-犬"),
    ],
)
def test_a_files_name_depends_on_the_concepts_name_alone(name: str, stem: str) -> None:

    assert re.fullmatch(stem, Entry(Concept(name), None, "").stem)


def test_names_that_give_one_file_name_get_two(tmp_path: Path) -> None:
    first, second = '{"concept": "Van Gogh"}', '{"concept": "van-gogh"}'
    write_list(tmp_path, second, first)
    assert run(tmp_path) == 0
    files = {record["concept"]: record["file"] for record in journal(tmp_path)}
    assert files["Van Gogh"] == "forget-van-gogh.safetensors"
    assert files["van-gogh"].startswith("forget-van-gogh-")
    assert len(loras(tmp_path)) == 2
    other = tmp_path / "other"
    other.mkdir()
    write_list(other, first, second)
    assert run(other) == 0
    assert {record["concept"]: record["file"] for record in journal(other)} == files
    assert loras(other) == loras(tmp_path)


# --- going on -------------------------------------------------------------------------------------

KILLED = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("tiny_model", "tests/tiny_model.py")
tiny_model = importlib.util.module_from_spec(spec)
sys.modules["tiny_model"] = tiny_model
spec.loader.exec_module(tiny_model)
from unlearn_core import settings
from unlearn_core.cli import commands, forget_list, workers
from unlearn_core.files import journal
from unlearn_core.__main__ import main
commands.load_model = lambda *_: (tiny_model.TinyModel(), "prediction: v")
settings.PRESETS["quick"] = settings.PRESETS["quick"].replace(**eval(sys.argv[1]))
def die(): os.kill(os.getpid(), signal.SIGKILL)
written, honest = [], forget_list.append_record
{how}
main(sys.argv[2:])
"""
BETWEEN = """
keep = forget_list._keep
def kept(*arguments):
    keep(*arguments)
    die()
forget_list._keep = kept
"""
INSIDE = """
forget = workers.unlearn
class Monitor:
    shows_pictures = False
    def should_stop(self): return False
    def report(self, progress): progress.step == 2 and die()
def dying(model, concept, chosen, monitor, **said):
    watch = Monitor() if concept.name == "cat" else monitor
    return forget(model, concept, chosen, watch, **said)
workers.unlearn = dying
"""
BEFORE_THE_LINE = """
def append(path, record):
    if record["concept"] == "cat":
        die()
    honest(path, record)
forget_list.append_record = append
"""
AFTER_THE_LINE = """
def append(path, record):
    honest(path, record)
    if record["concept"] == "cat":
        die()
forget_list.append_record = append
"""
WITHIN_THE_LINE = """
def append(path, record):
    if record["concept"] == "cat":
        with path.open("ab") as file:
            file.write(b'{"concept": "cat", "task": "12')
        die()
    honest(path, record)
forget_list.append_record = append
"""
WITHIN_THE_FILE = """
replace = forget_list.Path.replace
def dying(path, target):
    if str(target).endswith("forget-cat.safetensors"):
        die()
    return replace(path, target)
forget_list.Path.replace = dying
"""


@pytest.mark.parametrize(
    "how",
    [BETWEEN, INSIDE, BEFORE_THE_LINE, WITHIN_THE_LINE, AFTER_THE_LINE, WITHIN_THE_FILE],
    ids=["between two", "inside", "before its line", "within it", "after it", "within its file"],
)
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path, how: str
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    for folder in (whole, tmp_path):
        write_list(folder, *LINES)
    assert run(whole) == 0
    code = KILLED.replace("{how}", how)
    command = ["forget", "--model", "demo", "--preset", "quick"]
    command += ["--list", str(tmp_path / "concepts.jsonl"), "--out", str(tmp_path / "out")]
    killed = subprocess.run(
        [sys.executable, "-c", code, repr(TINY), *command], cwd=root, capture_output=True
    )
    assert killed.returncode == -9, killed.stderr
    torn = [path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".part"]
    assert len(torn) == (how is WITHIN_THE_FILE)
    begun = forgotten_now(monkeypatch)
    assert run(tmp_path) == 0
    assert begun == ["cat", "car"]
    assert loras(tmp_path) == loras(whole)
    timeless = [
        [{**record, "seconds": 0} for record in journal(folder)] for folder in (whole, tmp_path)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda folder: None, []),
        (lambda folder: write_list(folder, *LINES, '{"concept": "fox"}'), ["fox"]),
        (lambda folder: write_list(folder, *reversed(LINES)), []),
        (
            lambda folder: write_list(folder, LINES[0], '{"concept": "cat", "keep": ["fox"]}'),
            ["cat"],
        ),
        (lambda folder: (folder / "out" / NAMES[0]).unlink(), ["car"]),
        (lambda folder: (folder / "out" / NAMES[1]).write_bytes(b"other"), ["cat"]),
    ],
)
def test_only_what_is_missing_or_changed_is_done_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], object],
    again: list[str],
) -> None:
    write_list(tmp_path, *LINES)
    assert run(tmp_path) == 0
    begun = forgotten_now(monkeypatch)
    change(tmp_path)
    assert run(tmp_path) == 0
    assert begun == again
    assert set(NAMES) <= set(loras(tmp_path))
    named = [record["concept"] for record in journal(tmp_path)]
    assert len(named) == len(set(named))
    assert {"dog", "cat", "car"} <= set(named)


def test_other_settings_another_model_or_other_pictures_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pictures").mkdir()
    picture = tmp_path / "pictures" / "a.png"
    picture.write_bytes(png_bytes(torch.zeros(3, 32, 32)))
    write_list(tmp_path, LINES[0], '{"concept": "cat", "images": "pictures"}')
    assert run(tmp_path) == 0
    begun = forgotten_now(monkeypatch)
    assert run(tmp_path, "--seed", "1") == 0
    assert begun == ["dog", "cat"]
    assert run(tmp_path, "--seed", "1", "--model", "another.safetensors") == 0
    assert begun == ["dog", "cat"] * 2
    picture.write_bytes(png_bytes(torch.ones(3, 32, 32)))
    assert run(tmp_path, "--seed", "1", "--model", "another.safetensors") == 0
    assert begun == [*["dog", "cat"] * 2, "cat"]
    assert len(journal(tmp_path)) == 2


def test_a_failed_concept_stops_no_other_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_list(tmp_path, '{"concept": "dog", "stand_in": "zeppelin"}', *LINES[1:])
    honest = workers.unlearn

    def stumbling(model: Any, concept: Concept, *rest: Any, **said: Any) -> Any:
        if concept.name == "cat":
            raise ZeroDivisionError("a\nbug")
        return honest(model, concept, *rest, **said)

    with monkeypatch.context() as stumble:
        stumble.setattr(workers, "unlearn", stumbling)
        assert run(tmp_path) == 1
    assert list(loras(tmp_path)) == [NAMES[0]]
    errors = [record.get("error", "") for record in journal(tmp_path)]
    assert "no word vector for the stand-in 'zeppelin'" in errors[0]
    assert errors[1:] == ["ZeroDivisionError: a bug", ""]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: 2 of 3 concepts failed; ")
    begun = forgotten_now(monkeypatch)
    assert run(tmp_path) == 1
    assert begun == ["dog", "cat"]
    assert list(loras(tmp_path)) == NAMES[:2]
    write_list(tmp_path, *LINES)
    assert run(tmp_path) == 0
    assert len(journal(tmp_path)) == 3


def test_stopping_says_how_far_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_list(tmp_path, *LINES)
    honest = workers.unlearn

    def stopped(model: Any, concept: Concept, *rest: Any, **said: Any) -> Any:
        if concept.name == "cat":
            raise Cancelled("stopped")
        return honest(model, concept, *rest, **said)

    monkeypatch.setattr(workers, "unlearn", stopped)
    assert run(tmp_path) == 130
    assert "1 of 3 concepts are done; the same command goes on" in capsys.readouterr().err
    assert [record["concept"] for record in journal(tmp_path)] == ["dog"]


def test_two_commands_do_not_write_to_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_list(tmp_path, *LINES)
    honest = workers.unlearn
    seconds: list[int] = []

    def met(*args: Any, **said: Any) -> Any:
        seconds.append(run(tmp_path))
        return honest(*args, **said)

    monkeypatch.setattr(workers, "unlearn", met)
    assert run(tmp_path) == 0
    assert seconds == [1, 1, 1]
    assert f"Another command is writing to {tmp_path / 'out'}" in capsys.readouterr().err
    assert list(loras(tmp_path)) == NAMES
    assert len(journal(tmp_path)) == 3
    assert run(tmp_path) == 0


def test_a_lock_that_can_not_be_made_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_list(tmp_path, *LINES)
    no_folder = tmp_path / "file"
    no_folder.write_text("", "utf-8")
    monkeypatch.setattr(output_files.tempfile, "gettempdir", lambda: str(no_folder))
    assert run(tmp_path) == 1
    assert "can't be written" in capsys.readouterr().err
    assert loras(tmp_path) == {}


def test_a_worker_may_finish_in_any_order(
    tmp_path: Path, tiny_and_fast: tiny_model.TinyModel
) -> None:
    """What a cluster gives back is written as what is made here."""

    def backwards(order: Order, entries: Sequence[Entry], monitor: RunMonitor) -> Outcomes:
        for entry in reversed(entries):
            yield workers.forget_entry(tiny_and_fast, order, entry, monitor)  # type: ignore[arg-type]

    session = commands.Session(lambda _: None, tiny_model.Recorder())
    path = write_list(tmp_path, *LINES)
    chosen = settings.PRESETS["quick"]
    out = tmp_path / "out"
    forget_list.forget_list(session, path, "quick", chosen, out, worker=backwards)
    assert [record["concept"] for record in journal(tmp_path)] == ["car", "cat", "dog"]
    backwards_written = loras(tmp_path)
    assert run(tmp_path, "--out", str(tmp_path / "forwards")) == 0
    for name, content in backwards_written.items():
        assert (tmp_path / "forwards" / name).read_bytes() == content


# --- files of others ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["out/forget-cat.safetensors", "reports/forget-cat/loss.png", "link/forget-cat.safetensors"],
)
def test_a_file_that_the_journal_does_not_know_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.delattr(commands, "load_model")
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"of the WebUI")
    write_list(tmp_path, *LINES)
    assert run(tmp_path, "--report", str(tmp_path / "reports")) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert f"{Path(name).name} is there already" in error
    assert (tmp_path / name).read_bytes() == b"of the WebUI"
    assert not (tmp_path / "out" / "forgotten.jsonl").exists()


def test_what_was_written_here_is_replaced_even_after_failures_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_list(tmp_path, LINES[1])
    assert run(tmp_path) == 0
    before = loras(tmp_path)

    for error, code in ((ZeroDivisionError("a bug"), 1), (Cancelled("stopped"), 130)):

        def stumble(*_: Any, error: Exception = error, **said: Any) -> None:
            raise error

        with monkeypatch.context() as stumbling:
            stumbling.setattr(workers, "unlearn", stumble)
            assert run(tmp_path, "--seed", "1") == code
        assert loras(tmp_path) == before
    assert run(tmp_path, "--seed", "1") == 0
    assert loras(tmp_path).keys() == before.keys()
    assert loras(tmp_path) != before
    assert len(journal(tmp_path)) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--list", "{here}/out/forgotten.jsonl"], "this command reads it"),
        (["--list", "{here}/list", "--out", "{here}/model"], "the model is only read"),
        (["--list", "{here}/list", "--report", "{here}/model/report"], "the model is only read"),
        (["--list", "{here}/list", "--report", "{here}/loop"], "can't be written"),
        (["--list", "{here}/list", "--out", "{here}/x\udcff"], "is not UTF-8"),
        (["--list", "{here}/pipe"], "is no regular file"),
        (["--list", "/dev/zero"], "is no regular file"),
        (["--list", "{here}"], "is a folder"),
        (["--list", "{here}/" + "x" * 300], "can't be read"),
    ],
)
def test_places_that_cannot_be_meant_are_refused_before_anything_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    said: str,
) -> None:
    monkeypatch.delattr(commands, "load_model")
    for name in ("model", "out"):
        (tmp_path / name).mkdir()
    for name in ("list", "out/forgotten.jsonl"):
        (tmp_path / name).write_text(f"{LINES[1]}\n", "utf-8")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    filled = [flag.replace("{here}", str(tmp_path)) for flag in flags]
    assert run(tmp_path, "--model", str(tmp_path / "model"), *filled) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert said in error
    assert before == {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}


# --- hostile lists --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "holds no concept"),
        (["", "  "], "holds no concept"),
        ([LINES[0], '{"concept": "cat"'], "Line 2 of {path}: this is not JSON"),
        (["[" * 100_000], "Line 1 of {path}: this is not JSON"),
        (["dog"], "Line 1 of {path}: this is not JSON"),
        (['"dog"'], "Line 1 of {path}: this is no JSON object"),
        ([LINES[0], "", '{"concept": "cat", "keeps": []}'], "Line 3 of {path}: unknown key keeps"),
        (['{"synonyms": ["dog"]}'], "Line 1 of {path}: The concept has no name"),
        (['{"concept": ""}'], "Line 1 of {path}: The concept has no name"),
        (['{"concept": "?!"}'], "Line 1 of {path}: The concept has no name: '?!' has no letter"),
        (['{"concept": 7}'], "concept is 7; it must be a text in quotes"),
        (['{"concept": null}'], "concept is null; it must be a text in quotes"),
        (['{"concept": "dog", "synonyms": "puppy"}'], "it must be a list of texts in quotes"),
        (['{"concept": "dog", "keep": ["fox", 7]}'], "it must be a list of texts in quotes"),
        (['{"concept": ' + "[" * 900 + "]" * 900 + "}"], "it must be a text in quotes"),
        (['{"concept": "dog"}'] * 10_001, "has 10,001 lines; 10,000 at most"),
        (['{"concept": "cat", "images": "' + "x" * 300 + '"}'], "can't be read"),
        (['{"concept": "cat", "images": "a\\u0000b"}'], "can't be read"),
        (['{"concept": "cat", "images": "\\ud800"}'], "can't be read"),
        (['{"concept": "dog", "kind": "smell"}'], "Line 1 of {path}: Unknown kind 'smell'"),
        (['{"concept": "dog", "keep": ["dog"]}'], "can't be forgotten and kept"),
        ([LINES[0], LINES[1], '{"concept": "DOG"}'], "Line 3 of {path}: 'DOG' stands in line 1"),
        (
            [LINES[0], '{"concept": "cat", "images": "none"}'],
            "Line 2 of {path}: There is no folder",
        ),
        (['{"concept": "cat", "images": "empty"}'], "Line 1 of {path}: There is no picture in"),
        (['{"concept": "cat", "images": "bad"}'], "a.png can't be read as a picture"),
    ],
)
def test_a_hostile_list_is_refused_with_its_line_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lines: list[str],
    said: str,
) -> None:
    monkeypatch.delattr(commands, "load_model")
    path = write_list(tmp_path, *lines)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"nonsense")
    assert run(tmp_path) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert said.replace("{path}", str(path)) in error
    assert not (tmp_path / "out").exists()


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "concepts.jsonl"
    with pytest.raises(BadFile, match="There is no file"):
        read_list(path, UnlearnSettings())
    path.write_bytes(b'{"concept": "\xff"}')
    with pytest.raises(BadFile, match="is not UTF-8"):
        read_list(path, UnlearnSettings())
    path.write_bytes(b'\xef\xbb\xbf{"concept": "dog"}\r\n{"concept": "cat"}')
    assert [entry.concept.name for entry in read_list(path, UnlearnSettings())] == ["dog", "cat"]


def test_a_preset_that_needs_pictures_asks_for_them_line_by_line(tmp_path: Path) -> None:
    path = write_list(tmp_path, LINES[0])
    with pytest.raises(
        BadConcept, match=r'Line 1 of .*: these settings need pictures: add "images"'
    ):
        read_list(path, settings.PRESETS["paper"])


@pytest.mark.parametrize(
    "content", [b"[1]\n", b"nonsense\n", b'{"concept": [1]}\n', b'{"concept": "dog"}\n\x00\x00\n']
)
def test_a_journal_of_something_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    write_list(tmp_path, *LINES)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "forgotten.jsonl").write_bytes(content)
    assert run(tmp_path) == 1
    assert "is no JSON object with a concept: take it out" in capsys.readouterr().err
    assert (tmp_path / "out" / "forgotten.jsonl").read_bytes() == content


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--list", "{list}", "--synonyms", "puppy"], "--synonyms is of one concept"),
        (["--list", "{list}", "--stand-in", "cat"], "--stand-in is of one concept"),
        (["--list", "{list}", "--kind", "style"], "--kind is of one concept"),
        (["--list", "{list}", "--images", "."], "--images is of one concept"),
        (["--list", "{list}", "--embedding", "a-1.safetensors"], "--embedding is of one concept"),
        (["--concept", "dog", "--ray"], "give --list"),
    ],
)
def test_flags_of_one_concept_do_not_go_with_a_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    path = write_list(tmp_path, *LINES)
    filled = [flag.replace("{list}", str(path)) for flag in flags]
    assert main(["forget", "--model", "demo", *filled, "--out", str(tmp_path / "out")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- all in one run -------------------------------------------------------------------------------


def test_together_one_lora_forgets_the_whole_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_list(tmp_path, *LINES)
    out = tmp_path / "all.safetensors"
    assert run(tmp_path, "--together", "--out", str(out)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, "concepts.jsonl"]
    parts = all_from_metadata(load_lora(out).metadata)
    assert [part.concept.name for part in parts] == ["dog", "cat", "car"]
    said = capsys.readouterr().out
    assert re.search(r"^forgotten: dog, puppy.*; \w+ is drawn in its place$", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--together", "--ray"], "leave --ray and --report out"),
        (["--together", "--report", "report"], "measure --concept NAME"),
    ],
)
def test_together_is_one_run_without_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    write_list(tmp_path, *LINES)
    assert run(tmp_path, *more) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_together_needs_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["forget", "--model", "demo", "--concept", "dog", "--out", str(tmp_path / "a")]
    assert main([*command, "--together"]) == 1
    assert "give --list" in capsys.readouterr().err
