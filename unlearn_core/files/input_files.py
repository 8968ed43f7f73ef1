"""What a user names as an input, looked at without trust: a path may be anything.

A FIFO waits for ever, /dev/zero never ends, and asking for the kind of a path can itself fail.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from ..errors import BadFile

MOST_TEXT = 16 * 2**20
"""Bytes of a text file: lists, prompts, configs, cards."""


def is_folder(path: Path) -> bool:
    """Whether there is a folder; raises BadFile if the path can't be looked at."""
    status = _status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def is_file(path: Path) -> bool:
    """Whether there is a regular file; raises BadFile if the path can't be looked at."""
    status = _status(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def require_file(path: Path, pipe: bool = False) -> None:
    """Raise BadFile unless there is a regular file; with `pipe` a pipe will do, too."""
    status = _status(path)
    if status is None:
        raise BadFile(f"There is no file {path}.")
    if stat.S_ISDIR(status.st_mode):
        raise BadFile(f"{path} is a folder: give the name of a file.")
    if not (stat.S_ISREG(status.st_mode) or (pipe and stat.S_ISFIFO(status.st_mode))):
        raise BadFile(f"{path} is no regular file but a device, a pipe or a socket.")


def file_digest(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits. Raises BadFile."""
    require_file(path)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def read_text(path: Path, pipe: bool = False) -> str:
    """A text file in UTF-8, with or without a byte order mark, of at most MOST_TEXT bytes.

    Every line end comes as "\\n".
    Raises BadFile as `require_file` does, and for other encodings and larger files.
    """
    require_file(path, pipe)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_TEXT + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > MOST_TEXT:
        raise BadFile(f"{path} is longer than {MOST_TEXT // 2**20} MB: it is no text of this kind.")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise BadFile(f"{path} is not UTF-8 text: {error}.") from error


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError | ValueError) -> BadFile:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}..."
    return BadFile(f"{shown} can't be read: {reason}.")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises BadFile."""
    if not is_file(path) and not is_folder(path):
        raise BadFile(f"{path} is missing.")
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of brackets
        raise BadFile(f"{path} can't be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise BadFile(f"{path} should hold a JSON object and holds a {type(content).__name__}.")
    return content
