"""Jobs on several processes side by side, each with a model of its own on the same device."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from bench.jobs.plan import Job, Plan
from bench.jobs.rows import Row
from bench.jobs.runner import Runner, make_runner
from bench.protocol.setup import ModelChoice

_runner: Runner | None = None
_end = float("inf")


def run_beside(
    choice: ModelChoice,
    plan: Plan,
    out: Path,
    jobs: Sequence[Job],
    end: float,
    processes: int,
) -> Iterator[Row]:
    """The rows as they are finished; after `end` (of time.monotonic) no further job is begun."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(processes, len(jobs)), _open, (choice, plan, out, end)) as pool:
        for row in pool.imap_unordered(_do, jobs):
            if row is not None:
                yield row


def _open(choice: ModelChoice, plan: Plan, out: Path, end: float) -> None:
    global _runner, _end  # what a process of a pool keeps between its jobs
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    base, world, _ = choice.open()
    _runner, _end = make_runner(base, world, plan, out, choice), end


def _do(job: Job) -> Row | None:
    assert _runner is not None
    return None if time.monotonic() >= _end else _runner.run(job)
