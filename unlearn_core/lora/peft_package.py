"""peft, the one package that a host may lack: whether it is there, and how it gets there."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import sys
from pathlib import Path

from ..errors import MissingPackage

_REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"
_INSTALL = ("-r", str(_REQUIREMENTS))
_REPAIR = ("--no-deps", "peft==0.13.2")
"""The one that can be imported beside transformers 4.30 to 5.23."""


def what_peft_lacks() -> str | None:
    """What to do where peft is not installed, on one line; looked up without importing it."""
    try:
        importlib.metadata.version("peft")
    except importlib.metadata.PackageNotFoundError:
        return _not_installed()
    return None


def require_peft() -> None:
    """Import peft; raises MissingPackage with the command that puts it right."""
    try:
        import peft  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name == "peft":
            raise MissingPackage(_not_installed()) from error
        raise MissingPackage(f"peft lacks the package {error.name}. {_run(_INSTALL)}") from error
    except ImportError as error:  # beside a transformers or accelerate that it does not know
        raise MissingPackage(f"peft can't be imported: {error}. {_run(_REPAIR)}") from error


def _not_installed() -> str:
    said = "The package peft is not installed, and nothing can be forgotten without it."
    return f"{said} {_run(_INSTALL)}"


def _run(wish: tuple[str, ...]) -> str:
    """The command for the Python that runs this, as the shell of the system reads it."""
    user_site = ("-s",) if sys.flags.no_user_site else ()
    words = [sys.executable, *user_site, "-m", "pip", "install", *wish]
    if importlib.util.find_spec("pip") is None:  # an environment that uv made
        words = ["uv", "pip", "install", "--python", sys.executable, *wish]
    command = shlex.join(words)
    if os.name == "nt":
        command = " ".join(f'"{word}"' if " " in word else word for word in words)
    return f"Run this, then start again: {command}"
