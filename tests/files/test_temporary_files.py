"""Temporary files: what a killed write leaves goes, what others write stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unlearn_core.files import temporary_files
from unlearn_core.files.output_files import make_folder
from unlearn_core.files.temporary_files import remove_stale, temporary_beside

KILLED = """
import os, pathlib, signal, sys
from unlearn_core.files.tensor_file import write_whole
pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_whole(pathlib.Path(sys.argv[1]), b"content")
"""
NO_PROCESS = 2**22 + 1
"""Linux gives no number above 2**22."""
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="by age alone elsewhere")


def age(path: Path, hours: float) -> None:
    then = time.time() - hours * 3600
    os.utime(path, (then, then))


@on_linux
def test_what_a_killed_write_left_is_removed_by_the_next_run(tmp_path: Path, root: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a.safetensors")]
    assert subprocess.run(command, cwd=root).returncode == -signal.SIGKILL
    (torn,) = tmp_path.iterdir()
    assert torn.read_bytes() == b"content"
    make_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_living_process_writes_stays_for_a_day(tmp_path: Path) -> None:
    written = temporary_beside(tmp_path / "a.safetensors")
    for hours, stays in ((0, True), (23, True), (25, False)):
        written.touch()
        age(written, hours)
        remove_stale(tmp_path)
        assert written.exists() == stays


@pytest.mark.parametrize("machine", ["0123abcd", "any"])
def test_what_another_machine_writes_stays_for_a_day(tmp_path: Path, machine: str) -> None:
    """Its processes' numbers say nothing here."""
    written = tmp_path / f".sd-unlearn-{machine}-{NO_PROCESS}-{'0' * 32}.part"
    for hours, stays in ((0, True), (25, False)):
        written.touch()
        age(written, hours)
        remove_stale(tmp_path)
        assert written.exists() == stays


@on_linux
def test_where_the_machine_cannot_be_told_no_process_is_taken_for_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: NO_PROCESS)
    ended = temporary_beside(tmp_path / "a")
    ended.touch()
    monkeypatch.setattr(temporary_files, "_machine", lambda: "any")
    untold = temporary_beside(tmp_path / "a")
    untold.touch()
    remove_stale(tmp_path)
    assert untold.exists()
    monkeypatch.undo()
    remove_stale(tmp_path)
    assert untold.exists()
    assert not ended.exists()


@pytest.mark.parametrize(
    "name", ["film.part", ".sd-unlearn-notes.part", f".sd-unlearn-any-1-{'0' * 32}.part.txt"]
)
def test_files_of_others_stay_however_old(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    age(tmp_path / name, 10_000)
    remove_stale(tmp_path)
    assert (tmp_path / name).exists()
