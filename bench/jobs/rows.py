"""Finished jobs on disk: one JSON object a line, appended whole, so that a run can be stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.jobs.plan import Job

Row = dict[str, Any]
KEY = ("stage", "concept", "method", "seed", "strength", "detail")


def file_of(out: Path, stage: str) -> Path:
    """Attacks have a file of their own, for their rows are long."""
    return out / ("attacks.jsonl" if stage == "attacks" else "rows.jsonl")


def read_rows(out: Path) -> list[Row]:
    """All rows in the order in which they were finished; a torn last line is no row."""
    rows = []
    for name in ("rows.jsonl", "attacks.jsonl"):
        path = out / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                print(f"{path}, line {number}: cut off, its job will be done again")
    return rows


def append_row(out: Path, row: Row) -> None:
    """Write one row in one piece: several processes may append to the same file."""
    path = file_of(out, row["stage"])
    line = (json.dumps(row) + "\n").encode()
    with path.open("ab+", buffering=0) as file:
        if file.seek(0, 2):
            file.seek(-1, 2)
            if file.read(1) != b"\n":  # a process was killed while it wrote
                line = b"\n" + line
        file.write(line)


def key_of(row: Row) -> tuple[Any, ...]:
    """What tells a job from all others."""
    return tuple(row[name] for name in KEY)


def done_keys(rows: Iterable[Row]) -> set[tuple[Any, ...]]:
    """The keys of finished jobs."""
    return {key_of(row) for row in rows}


def job_key(job: Job) -> tuple[Any, ...]:
    """The key that the job's row will have."""
    return key_of(job.as_dict())
