"""Runs a plan's jobs: those that are not done, in order, each row kept as soon as it is there."""

from __future__ import annotations

import json
import time
from pathlib import Path

from bench.plan import STAGES, Job
from bench.rows import append_row, done_keys, job_key, read_rows
from bench.runner import Runner
from bench.summary import best_methods


def run_jobs(
    runner: Runner,
    stages: tuple[str, ...],
    part: int = 0,
    parts: int = 1,
    minutes: float | None = None,
) -> int:
    """Do every `parts`-th job of each stage from the `part`-th; how many were done.

    After `minutes` no further job is begun.
    """
    end = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    count = 0
    for stage in STAGES:
        if stage not in stages:
            continue
        jobs = stage_jobs(runner, stage)[part::parts]
        done = done_keys(read_rows(runner.out))
        left = [job for job in jobs if job_key(job) not in done]
        print(f"{stage}: {len(jobs) - len(left)} of {len(jobs)} jobs are done", flush=True)
        for number, job in enumerate(left, start=1):
            if time.monotonic() >= end:
                print(f"stopped after {minutes:g} minutes; the same command goes on", flush=True)
                return count
            row = runner.run(job)
            append_row(runner.out, row)
            count += 1
            print(f"{number}/{len(left)} {_words(job)}: {_outcome(row)}", flush=True)
    return count


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
        path.write_text(json.dumps(chosen) + "\n")
    return tuple(json.loads(path.read_text()))


def _words(job: Job) -> str:
    parts = [job.stage, job.concept, job.method, f"seed {job.seed}", job.detail]
    if job.strength != 1:
        parts.append(f"strength {job.strength:g}")
    return ", ".join(part for part in parts if part)


def _outcome(row: dict) -> str:
    return f"{row['job_seconds']:.0f} s" + (f", {row['failed']}" if "failed" in row else "")
