"""Runs a plan's jobs: those that are not done, in order, each row kept as soon as it is there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.jobs.plan import STAGES, Job
from bench.jobs.rows import Row, append_row, done_keys, job_key, read_rows
from bench.jobs.runner import Runner
from bench.jobs.summary import best_methods

Beside = Callable[[Sequence[Job], float], Iterator[Row]]
"""Does jobs until a moment of time.monotonic, and gives back their rows as they are finished."""


def run_jobs(
    runner: Runner,
    stages: tuple[str, ...],
    minutes: float | None = None,
    beside: Beside | None = None,
) -> int:
    """Do what is left of each stage; how many jobs were done.

    After `minutes` no further job is begun. `beside` does the jobs in other processes.
    """
    end = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    count = 0
    for stage in STAGES:
        if stage not in stages:
            continue
        jobs = stage_jobs(runner, stage)
        done = done_keys(read_rows(runner.out))
        left = [job for job in jobs if job_key(job) not in done]
        print(f"{stage}: {len(jobs) - len(left)} of {len(jobs)} jobs are done", flush=True)
        if not left:
            continue
        finished = 0
        for row in beside(left, end) if beside else _in_turn(runner, left, end):
            append_row(runner.out, row)
            finished += 1
            print(f"{finished}/{len(left)} {_words(row)}: {_outcome(row)}", flush=True)
        count += finished
        if finished < len(left):
            print(f"stopped after {minutes:g} minutes; the same command goes on", flush=True)
            break
    return count


def _in_turn(runner: Runner, jobs: Sequence[Job], end: float) -> Iterator[Row]:
    for job in jobs:
        if time.monotonic() >= end:
            return
        yield runner.run(job)


def stage_jobs(runner: Runner, stage: str) -> list[Job]:
    """A stage's jobs; the attacks take the methods that main has found to be best."""
    best = _attacked_methods(runner) if stage == "attacks" else ()
    return runner.plan.jobs((stage,), best)


def _attacked_methods(runner: Runner) -> tuple[str, ...]:
    """Chosen once and kept, so that every part attacks the same ones."""
    path: Path = runner.out / "attacked.json"
    if not path.exists():
        chosen = best_methods(read_rows(runner.out))
        if not chosen:
            return ()
        path.write_text(json.dumps(chosen) + "\n", "utf-8")
    return tuple(json.loads(path.read_text("utf-8")))


def _words(row: Row) -> str:
    parts = [row["stage"], row["concept"], row["method"], f"seed {row['seed']}", row["detail"]]
    if row["strength"] != 1:
        parts.append(f"strength {row['strength']:g}")
    return ", ".join(part for part in parts if part)


def _outcome(row: Row) -> str:
    return f"{row['job_seconds']:.0f} s" + (f", {row['failed']}" if "failed" in row else "")
