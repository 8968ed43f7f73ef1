"""What the bench reports, as pure functions of counts and of paired yes/no readings.

Shares and accuracies are 0 to 1; tables show them as percent, and drops in points.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from unlearn_core.measuring.judge import wilson

WEAK = 0.9
"""What the unchanged model draws in fewer of its pictures is marked: an absence proves little."""

Verdict = Literal["met", "missed", "not resolved"]


@dataclass(frozen=True)
class Share:
    """Pictures in which the judge sees what was asked about, of how many."""

    hits: int
    count: int

    @classmethod
    def of(cls, readings: str) -> Share:
        """From readings, one "1" or "0" a picture."""
        return cls(readings.count("1"), len(readings))

    @property
    def value(self) -> float:
        """0 to 1; 0 of no pictures is 0."""
        return self.hits / max(1, self.count)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval, see `wilson`."""
        return wilson(self.hits, self.count)

    def __add__(self, other: Share) -> Share:
        """Both sets of pictures together."""
        return Share(self.hits + other.hits, self.count + other.count)


@dataclass(frozen=True)
class Difference:
    """A drop between two readings of the same pictures, with its 95 % interval, -1 to 1."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high


def paired_drop(before: str, after: str) -> Difference:
    """Share before minus share after, read on pictures from the same noise, one "1" or "0" each.

    The interval is method 10 of Newcombe 1998 (Statistics in Medicine 17, 2635-2650): the two
    Wilson intervals, squared and added, less what the pairs have in common.
    """
    pairs = list(zip(before, after, strict=True))
    n = len(pairs)
    if n == 0:
        return Difference(0.0, -1.0, 1.0)
    both, lost, won = (pairs.count(pair) for pair in (("1", "1"), ("1", "0"), ("0", "1")))
    neither = n - both - lost - won
    first, second = (both + lost) / n, (both + won) / n
    (low_1, high_1), (low_2, high_2) = wilson(both + lost, n), wilson(both + won, n)
    phi = _phi(both, lost, won, neither)
    below = _added(first - low_1, high_2 - second, phi)
    above = _added(high_1 - first, second - low_2, phi)
    return Difference(first - second, first - second - below, first - second + above)


def _phi(both: int, lost: int, won: int, neither: int) -> float:
    """How far the pairs agree, with Newcombe's continuity correction; 0 where it can't be told."""
    size = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    if size == 0:
        return 0.0
    agreement, half = both * neither - lost * won, (both + lost + won + neither) / 2
    if agreement > 0:
        agreement = max(agreement - half, 0)
    return agreement / math.sqrt(size)


def _added(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))


def unlearning_accuracy(shown: Share) -> float:
    """UA: share of the concept's pictures in which the judge does not see it.

    UnlearnCanvas (Zhang et al. 2024, arXiv 2402.11846).
    """
    return 1 - shown.value


def reported(readings: str, asked: Sequence[str], left_out: Iterable[str] = ()) -> str:
    """The readings without those of pictures that asked for what is `left_out`.

    The n-th picture asks for `asked[n % len(asked)]`; without `asked` all readings stay.
    """
    if not asked:
        return readings
    out = set(left_out)
    return "".join(bit for n, bit in enumerate(readings) if asked[n % len(asked)] not in out)


def retain_accuracy(readings: str) -> Share:
    """IRA or CRA: share of pictures of other things that are read as what they were asked to be.

    UnlearnCanvas (arXiv 2402.11846): IRA within the concept's domain, CRA in the other one.
    """
    return Share.of(readings)


def overall(ua: float, shown_generally: float, ira: float, cra: float) -> float:
    """H_o: harmonic mean of UA, 1 - Acc_g and the mean of IRA and CRA.

    The form is MACE's (Lu et al. 2024, arXiv 2403.06135), whose specificity is here the mean of
    UnlearnCanvas' two accuracies. Acc_g is `shown_generally`: the share of pictures of held-out
    synonyms that show the concept.
    """
    parts = (ua, 1 - shown_generally, (ira + cra) / 2)
    return 0.0 if min(parts) <= 0 else len(parts) / sum(1 / part for part in parts)


@dataclass(frozen=True)
class Neighbours:
    """What the nearest things lose."""

    worst_word: str
    worst: Difference
    mean: Difference
    """Over the pictures of all of them."""


def neighbours(before: Mapping[str, str], after: Mapping[str, str]) -> Neighbours:
    """The neighbour that loses most and what they lose together; word -> readings."""
    drops = {word: paired_drop(before[word], after[word]) for word in after}
    worst = max(drops, key=lambda word: drops[word].value)
    mean = paired_drop(*("".join(side[word] for word in after) for side in (before, after)))
    return Neighbours(worst, drops[worst], mean)


def selective_alignment(before: str, after: str) -> tuple[Share, Difference]:
    """In prompts of the concept and another object: is the other one still there?

    The share of pictures in which the judge finds it, and the drop. The question is that of HUB
    (Moon et al. 2024, arXiv 2410.05664), which asks a language model that sees.
    """
    return Share.of(after), paired_drop(before, after)


def verdict(limit: float, interval: tuple[float, float]) -> Verdict:
    """Whether a number is at most `limit`; an interval that holds the limit can't tell."""
    low, high = interval
    if high <= limit:
        return "met"
    return "missed" if low > limit else "not resolved"


def resolved(limit: float, interval: tuple[float, float]) -> bool:
    """Whether so many pictures can tell on which side of the limit a number lies."""
    return verdict(limit, interval) != "not resolved"
