"""A file of finished work: one JSON object a line, appended as each is done, safe to be killed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import BadFile
from .input_files import is_file
from .tensor_file import write_whole

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The records of a journal, none if there is no such file; a torn last line is cut off.

    A line is whole when its line end is there, since that is written last. Raises BadFile if
    the file can't be read or mended, or another line holds no JSON object with a
    text `concept`.
    """
    try:
        content = path.read_bytes() if is_file(path) else b""
    except OSError as error:
        raise BadFile(f"{path} can't be read: {error.strerror}.") from error
    whole = content[: content.rfind(b"\n") + 1]
    records = [_record(path, i, line) for i, line in enumerate(whole.splitlines(), start=1)]
    if whole != content:
        write_whole(path, whole)
    return records


def append_record(path: Path, record: Record) -> None:
    """Add a line and see it onto the disk; raises BadFile."""
    try:
        with path.open("ab") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadFile(f"{path} can't be written: {error.strerror}.") from error


def replace_records(path: Path, records: Sequence[Record]) -> None:
    """Write a journal anew, all at once; raises BadFile."""
    write_whole(path, b"".join(map(_line, records)))


def _line(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _record(path: Path, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("concept"), str):
        raise BadFile(
            f"Line {number} of {path} is no JSON object with a concept: take it out and start "
            "again."
        )
    return record
