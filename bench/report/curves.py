"""Our LoRAs by strength: how much of the concept is shown, and how much of its neighbours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from bench.jobs.rows import Row
from bench.methods.find import BASE
from bench.protocol.metrics import Share


@dataclass(frozen=True)
class CurvePoint:
    """One LoRA strength, seeds pooled."""

    strength: float
    shown: Share
    kept: Share
    """Pictures of the three neighbours that show them."""


def strength_curve(rows: Sequence[Row], concept: str, method: str) -> list[CurvePoint]:
    """From the rows of `curves`; strengths 0 and 1 from the same pictures of main."""
    by_strength: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        if "failed" in row or row["concept"] != concept:
            continue
        if row["stage"] == "curves" and row["method"] == method:
            by_strength[row["strength"]].append(row)
    if not by_strength:
        return []
    lengths = {name: len(read["object"]) for name, read in _any(by_strength)["cells"].items()}
    for row in rows:
        if row["stage"] == "main" and row["concept"] == concept and "failed" not in row:
            if row["method"] == BASE:
                by_strength[0.0].append(row)
            elif row["method"] == method:
                by_strength[1.0].append(row)
    return [
        CurvePoint(strength, *_curve_shares(found, lengths))
        for strength, found in sorted(by_strength.items())
    ]


def _any(by_strength: dict[float, list[Row]]) -> Row:
    return next(iter(by_strength.values()))[0]


def _curve_shares(rows: Sequence[Row], lengths: dict[str, int]) -> tuple[Share, Share]:
    shown = kept = ""
    for row in rows:
        for name, length in lengths.items():
            readings = row["cells"][name][row["kind"]][:length]
            if name == "name":
                shown += readings
            else:
                kept += readings
    return Share.of(shown), Share.of(kept)
