"""What hosts need is installed once, by one process, and the terminal says so."""

import os
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import host_install
import pytest
from host_install import ROOT, install_once

SLOWLY = 0.3  # seconds
TEST_FILE = """
import host_install
import pytest

def test_it():
    host_install.say('this takes a while')

@pytest.mark.parametrize("number", range(3))
def test_without(number):
    pytest.skip("something is missing: install it")
"""


@pytest.fixture(autouse=True)
def _captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said here need not be read by who runs the tests."""
    monkeypatch.setattr(host_install, "outside_capture", nullcontext)


class Filling:
    """Fills a folder, and counts how often."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.times = 0

    def __call__(self) -> None:
        assert list(self.home.iterdir()) == []
        self.times += 1
        time.sleep(SLOWLY)
        (self.home / "content").write_text(str(self.times), "utf-8")


def test_a_folder_is_filled_again_only_for_another_wish(tmp_path: Path) -> None:
    home = tmp_path / ".hosts" / "a-host"
    fill = Filling(home)
    for wish, times in (("one", 1), ("one", 1), ("two", 2), ("two", 2)):
        install_once(home, wish, "a host", fill, 1)
        assert (home / "content").read_text("utf-8") == str(times)


def test_a_filling_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    home = tmp_path / "a-host"

    def cut_off() -> None:
        (home / "torn").write_text("", "utf-8")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install_once(home, "one", "a host", cut_off, 1)
    install_once(home, "one", "a host", Filling(home), 1)
    assert not (home / "torn").exists()


def test_of_two_that_ask_at_once_one_fills_and_the_other_waits(tmp_path: Path) -> None:
    home = tmp_path / "a-host"
    fill = Filling(home)
    arguments = (home, "one", "a host", fill, 1)
    threads = [threading.Thread(target=install_once, args=arguments) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fill.times == 1


@pytest.mark.parametrize("workers", ["0", "1"])
def test_the_terminal_says_it_while_pytest_captures_and_in_one_line_what_is_missing(
    workers: str, tmp_path: Path
) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(TEST_FILE, "utf-8")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", workers, "-p", "conftest", str(file)],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, encoding="utf-8",
        cwd=tmp_path,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout
    assert "\nsd-unlearn: this takes a while\n" in process.stderr
    missing = [line for line in process.stdout.splitlines() if "something is missing" in line]
    assert missing == ["3 skipped: something is missing: install it"]
