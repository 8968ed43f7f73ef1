"""How an attack learns its vectors: every restart lowers its own loss, all side by side."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bench.attacks.curve import AttackCurve, Point, Restart
from bench.attacks.target import Target
from unlearn_core.errors import TrainingFailed

LAST_RATE = 0.1
"""Of the first rate, at the last step."""
RANDOM = "random"
"""As a start: vectors drawn with the mean and deviation of the words that the model knows."""

Update = Callable[[Tensor, Tensor, int], None]
"""Changes the vectors in place, given their gradient and the number of steps done."""


@dataclass(frozen=True)
class Pace:
    """How long an attack runs, and where it is looked at."""

    steps: int
    recorded: tuple[int, ...]
    """Steps after which pictures are drawn; the last one is `steps`."""
    batch: int
    pictures: int
    """Drawn plain, and as many styled."""


class AttackSettings(Protocol):
    """What every attack by descent has."""

    @property
    def steps(self) -> int: ...
    @property
    def recorded(self) -> tuple[int, ...]: ...
    @property
    def batch(self) -> int: ...
    @property
    def pictures(self) -> int: ...


@dataclass
class Descent:
    """One restart of an attack."""

    vectors: Tensor
    """(n, width), changed in place."""
    update: Update
    generator: torch.Generator
    start: str
    kind: str


def descend(target: Target, runs: Sequence[Descent], pace: Pace) -> tuple[Restart, ...]:
    """Lower each run's loss by its own steps; all of them side by side.

    Raises TrainingFailed when a loss is not a number.
    """
    vectors = [run.vectors.requires_grad_(True) for run in runs]
    losses: list[list[float]] = [[] for _ in runs]
    points: list[list[Point]] = [[] for _ in runs]
    seconds = 0.0
    for step in range(pace.steps + 1):
        if step in pace.recorded:
            for run, seen in zip(runs, points, strict=True):
                seen.append(target.point(step, run.vectors, pace.pictures))
        if step == pace.steps:
            break
        began = time.monotonic()
        found = target.losses(vectors, pace.batch, [run.generator for run in runs])
        if not bool(found.isfinite().all()):
            raise TrainingFailed(f"The attack's loss is not a number at step {step + 1}.")
        gradients = torch.autograd.grad(found.sum(), vectors)
        with torch.no_grad():
            for run, gradient in zip(runs, gradients, strict=True):
                run.update(run.vectors, gradient, step)
        for own, loss in zip(losses, found.tolist(), strict=True):
            own.append(loss)
        seconds += time.monotonic() - began
    for run in runs:
        run.vectors = run.vectors.detach()
    return tuple(
        Restart(run.start, run.kind, tuple(seen), tuple(own), seconds / len(runs))
        for run, seen, own in zip(runs, points, losses, strict=True)
    )


def attacked(
    name: str, target: Target, runs: Sequence[Descent], settings: AttackSettings, seed: int
) -> AttackCurve:
    """All runs of an attack as its curve. Raises TrainingFailed."""
    began = time.monotonic()
    pace = Pace(settings.steps, settings.recorded, settings.batch, settings.pictures)
    restarts = descend(target, runs, pace)
    values, seconds = dataclasses.asdict(settings), time.monotonic() - began  # type: ignore[call-overload]
    return AttackCurve(name, target.concept, seed, values, restarts, seconds)


def adam(vectors: Tensor, rate: float, steps: int, longest: float = math.inf) -> Update:
    """Adam, its rate falling linearly to LAST_RATE; no vector gets longer than `longest`."""
    optimizer = torch.optim.Adam([vectors], lr=rate)

    def update(vectors: Tensor, gradient: Tensor, step: int) -> None:
        optimizer.param_groups[0]["lr"] = rate * (1 - (1 - LAST_RATE) * step / steps)
        vectors.grad = gradient
        optimizer.step()
        vectors.mul_((longest / vectors.norm(dim=1, keepdim=True)).clamp(max=1))

    return update


def random_vectors(table: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, width) drawn with the mean and deviation of the known rows of a word table."""
    known = table[table.any(dim=1)]
    noise = torch.randn(count, table.shape[1], generator=generator).to(table)
    return known.mean(0) + known.std(0) * noise


def word_size(table: Tensor) -> float:
    """Root mean square of an element of a word that the model knows."""
    return float(table[table.any(dim=1)].pow(2).mean().sqrt())
