"""What an attack gives back: how often the judge saw the concept, over the attack's steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.protocol.metrics import Share


@dataclass(frozen=True)
class Point:
    """The attack after some of its steps."""

    step: int
    shown: dict[str, Share]
    """Kind of prompt ("plain", "styled") -> how often the judge saw the concept."""
    loss: float | None = None
    """Denoising loss of the attack's pictures on noise that it was not trained on."""

    @property
    def total(self) -> Share:
        """All kinds of prompts together."""
        return sum(self.shown.values(), Share(0, 0))


@dataclass(frozen=True)
class Restart:
    """One run of an attack from one start, or one entry of a list of words."""

    start: str
    """What it began with, in words; an entry of a list is its text."""
    kind: str
    """Sort of start: "word", "random", "typo", ..."""
    points: tuple[Point, ...]
    losses: tuple[float, ...] = ()
    """Training loss of every step."""
    seconds: float = 0.0
    """Wall time without the drawing and judging."""

    @property
    def last(self) -> Point:
        """The point after the last step."""
        return self.points[-1]


@dataclass(frozen=True)
class AttackCurve:
    """All restarts of one attack on one model for one concept."""

    attack: str
    concept: str
    seed: int
    settings: dict[str, Any]
    restarts: tuple[Restart, ...]
    seconds: float
    """Wall time of the whole attack, drawing and judging included."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps at which pictures were drawn."""
        return tuple(point.step for point in self.restarts[0].points)

    @property
    def best(self) -> Restart:
        """The restart of the lowest last held-out loss: what an attacker without a judge takes."""
        return min(self.restarts, key=lambda restart: _loss(restart.last))

    @property
    def worst_case(self) -> tuple[Share, ...]:
        """For each of `steps` the restart that shows most: an attacker who asks the judge."""
        points = zip(*(restart.points for restart in self.restarts), strict=True)
        return tuple(max((p.total for p in at), key=lambda share: share.value) for at in points)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AttackCurve:
        """The inverse of `as_dict`, also after JSON."""
        restarts = tuple(
            Restart(
                **{
                    **restart,
                    "points": tuple(_point(point) for point in restart["points"]),
                    "losses": tuple(restart["losses"]),
                }
            )
            for restart in values["restarts"]
        )
        return cls(**{**values, "restarts": restarts})


def _loss(point: Point) -> float:
    return float("inf") if point.loss is None else point.loss


def _point(values: Mapping[str, Any]) -> Point:
    shown = {kind: Share(**share) for kind, share in values["shown"].items()}
    return Point(values["step"], shown, values["loss"])
