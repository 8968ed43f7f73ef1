"""What the tests of hosts install once into .hosts/: said on the terminal, by one process alone."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import time
import venv
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from filelock import FileLock

import install

ROOT = Path(__file__).resolve().parents[2]

outside_capture: Callable[[], AbstractContextManager[None]] = nullcontext
"""Lets through to the terminal what is printed meanwhile; conftest.py puts pytest's here."""


def say(line: str) -> None:
    """Print one line on the terminal, past pytest's capture; a worker of xdist has stderr alone."""
    with outside_capture():
        sys.stderr.write(f"\nsd-unlearn: {line}\n")
        sys.stderr.flush()


def install_once(
    home: Path, asked: str, name: str, fill: Callable[[], None], megabytes: int
) -> None:
    """Have `fill` fill the empty folder `home` with `name`, unless that was done for `asked`.

    `megabytes` is what pip downloads for it, about.
    """
    if os.name == "nt":
        pytest.skip("the tests of the hosts run on Linux and macOS")
    torch = importlib.metadata.version("torch")
    wanted = f"{asked} {sys.prefix} {sys.version_info[:2]} torch {torch}"
    stamp = home / "installed"
    home.parent.mkdir(exist_ok=True)
    with FileLock(home.with_name(f"{home.name}.lock")):
        if stamp.exists() and stamp.read_text("utf-8") == wanted:
            return
        if home.exists():
            shutil.rmtree(home)
        home.mkdir()
        say(f"installing {name} for the tests of the hosts (about {megabytes} MB, once)")
        start = time.monotonic()
        fill()
        stamp.write_text(wanted, "utf-8")
        say(f"installed {name} in {time.monotonic() - start:.0f} s")


def make_environment(folder: Path) -> None:
    """Make an environment that holds pip alone."""
    venv.EnvBuilder(with_pip=True).create(folder)


def lend_packages(folder: Path) -> None:
    """Let the environment in `folder` use what these tests have and it lacks.

    torch, for one: another copy would take gigabytes.
    """
    mine = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    packages = next(folder.glob("lib/python3.*/site-packages"))
    (packages / "lent.pth").write_text("\n".join(mine), "utf-8")


def pip_install(python: Path, *arguments: str) -> None:
    """Install into the environment of `python`; most of it is never imported: --no-compile."""
    run_pip(python, "install", "--no-compile", *arguments)


def run_pip(python: Path, *arguments: str) -> None:
    """Run pip of `python`; where it fails, the test does, with what pip said."""
    process = install.pip(python, *arguments)
    if process.returncode != 0:
        pytest.fail(f"pip {' '.join(arguments)}\n{process.stderr.strip()}", pytrace=False)
