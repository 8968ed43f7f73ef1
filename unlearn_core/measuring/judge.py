"""Who names what a picture shows: a trained network, or the model itself (`self_judge`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..concept import Kind
from ..loaders.demo_model import load_demo_judge

Z = 1.96
"""Standard score of 95 %."""


@dataclass(frozen=True)
class Judge:
    """Names what pictures show."""

    by: str
    """Who it is, for a sentence."""
    names: frozenset[str]
    """Everything that it can name; other words it is not asked about."""
    read: Callable[[Tensor, str], list[str | None]]
    """((B, 3, h, w) float32 in [-1, 1], the word that is asked about) -> what each picture shows,
    None for something else."""

    def look(self, pixels: Tensor, word: str) -> tuple[str | None, ...]:
        """What each of the pictures shows; nothing where the word is none that it can name."""
        return tuple(self.read(pixels, word)) if word in self.names else ()


def evaluation_judge(kind: Kind) -> Judge:
    """The classifier in demo/: pictures to the names of their styles or objects."""
    judge = load_demo_judge()

    def look(pixels: Tensor, word: str) -> list[str | None]:
        objects, styles = judge.classify(pixels)
        if kind == "style":
            return [judge.styles[i] for i in styles.tolist()]
        return [judge.objects[i] for i in objects.tolist()]

    names = judge.styles if kind == "style" else judge.objects
    return Judge("a classifier", frozenset(names), look)


def wilson(hits: int, count: int, z: float = Z) -> tuple[float, float]:
    """95 % score interval of a share, 0 to 1 (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    p = hits / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)
