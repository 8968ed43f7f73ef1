"""Thousands of damaged inputs, and runs that are stopped anywhere: a fixed seed, minutes."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_model import Recorder, TinyModel, pictures, small_settings

from unlearn_core.concept import Concept
from unlearn_core.errors import Cancelled
from unlearn_core.forgetting.unlearn import unlearn
from unlearn_core.settings import preset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms here"),
]
SEED = 20261129
LINES = [{"concept": "dog"}, {"concept": "apple"}, {"concept": "car, truck"}]


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("tensor_files", 4000),
        ("model_configs", 120),
        ("picture_files", 6000),
        ("names", 10000),
        ("texts", 2000),
        ("requests", 3000),
    ],
)
def test_no_damaged_input_does_more_than_be_refused(
    kind: str, count: int, root: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "tests/fuzzers.py", kind, str(SEED), str(count), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
    process = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, encoding="utf-8"
    )
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.splitlines()[-1])
    assert found["tried"] >= count
    assert found["refused"] > count / 20, "hardly anything was damaged"
    assert found["crashes"] == []
    assert found["hangs"] == []
    assert found["megabytes"] < 1000
    assert found["appeared"] == []


def test_a_run_that_is_stopped_anywhere_leaves_the_model_as_it_was() -> None:
    draw = random.Random(SEED)
    settings = preset("robust", **small_settings())
    concept = Concept("dog", ("puppy",), images=pictures())
    whole = Recorder()
    unlearn(TinyModel(), concept, settings, whole)
    for _ in range(40):
        model, monitor = TinyModel(), Recorder(stop_at=draw.randrange(whole.asked))
        before = model.checksum()
        with pytest.raises(Cancelled):
            unlearn(model, concept, settings, monitor)
        assert model.checksum() == before


def forget_list(root: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "unlearn_core", "forget", "--model", "demo", "--preset", "quick",
        "--list", str(folder / "list.jsonl"), "--out", str(folder / "out"),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(root)}
    silent = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=root, env=environment, stdout=silent, stderr=silent)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("*.safetensors"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_list_that_is_ended_anywhere_goes_on_to_the_same_files(
    sign: signal.Signals, root: Path, tmp_path: Path
) -> None:
    draw = random.Random(SEED + sign)
    for name in ("whole", "ended"):
        (tmp_path / name).mkdir()
        lines = "\n".join(map(json.dumps, LINES))
        (tmp_path / name / "list.jsonl").write_text(lines, encoding="utf-8")
    started = time.monotonic()
    assert forget_list(root, tmp_path / "whole").wait() == 0
    wanted, seconds = hashes(tmp_path / "whole" / "out"), time.monotonic() - started
    assert len(wanted) == len(LINES)
    for _ in range(4):
        process = forget_list(root, tmp_path / "ended")
        time.sleep(draw.uniform(0, seconds))
        process.send_signal(sign)
        process.wait(60)
        done = hashes(tmp_path / "ended" / "out")
        assert done.items() <= wanted.items(), "every file is whole"
    assert forget_list(root, tmp_path / "ended").wait() == 0
    assert hashes(tmp_path / "ended" / "out") == wanted
    left = {path.name for path in (tmp_path / "ended" / "out").iterdir()}
    assert left == {*wanted, "forgotten.jsonl"}, "no temporary file stays behind"
