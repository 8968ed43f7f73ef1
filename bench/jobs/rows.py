"""Finished jobs on disk: a journal of rows, so that a run can be stopped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.jobs.plan import Job
from unlearn_core.files.journal import Record, append_record, read_records

Row = Record
KEY = ("stage", "concept", "method", "seed", "strength", "detail")
ROWS, ATTACKS = "rows.jsonl", "attacks.jsonl"
"""Attacks have a file of their own, for their rows are long."""


def read_rows(out: Path) -> list[Row]:
    """All rows in the order in which they were finished; a torn last line is cut off.

    Raises BadFile.
    """
    return [row for name in (ROWS, ATTACKS) for row in read_records(out / name)]


def append_row(out: Path, row: Row) -> None:
    """Keep one row; raises BadFile."""
    append_record(out / (ATTACKS if row["stage"] == "attacks" else ROWS), row)


def key_of(row: Row) -> tuple[Any, ...]:
    """What tells a job from all others."""
    return tuple(row[name] for name in KEY)


def done_keys(rows: Iterable[Row]) -> set[tuple[Any, ...]]:
    """The keys of finished jobs."""
    return {key_of(row) for row in rows}


def job_key(job: Job) -> tuple[Any, ...]:
    """The key that the job's row will have."""
    return key_of(job.as_dict())
