"""The attacks' rows: curves pooled over concepts, and the words that bring a concept back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.attacks import AttackCurve
from bench.attacks.words import against
from bench.jobs.attack_jobs import MODULES
from bench.jobs.rows import Row
from bench.methods.find import BASE
from bench.protocol.metrics import Share
from bench.report.tables import markdown

WORDS = "words"
CONTROL = "control"
"""Stands for the method where the base model is asked for an object that it was never taught."""


@dataclass(frozen=True)
class Pooled:
    """One attack on one method over several concepts."""

    attack: str
    method: str
    concepts: tuple[str, ...]
    steps: tuple[int, ...]
    best: tuple[Share, ...]
    """At each step, of each concept the restart of the lowest held-out loss."""
    worst_case: tuple[Share, ...]
    """At each step, of each concept the restart that shows most."""


def attack_curves(
    rows: Sequence[Row], controls: Sequence[str]
) -> dict[tuple[str, str, str], AttackCurve]:
    """(attack, method, concept) -> curve; the method of a control is CONTROL."""
    return {
        (
            row["detail"],
            CONTROL if row["concept"] in controls else row["method"],
            row["concept"],
        ): AttackCurve.from_dict(row["curve"])
        for row in rows
        if row["stage"] == "attacks" and "failed" not in row
    }


def pooled(curves: dict[tuple[str, str, str], AttackCurve]) -> list[Pooled]:
    """Attacks by vectors; the base, the methods, then the controls."""
    groups: dict[tuple[str, str], dict[str, AttackCurve]] = {}
    for (attack, method, concept), curve in curves.items():
        if attack != WORDS:
            groups.setdefault((attack, method), {})[concept] = curve
    order = list(MODULES)
    return [
        Pooled(
            attack,
            method,
            tuple(found),
            next(iter(found.values())).steps,
            _sum([[point.total for point in curve.best.points] for curve in found.values()]),
            _sum([curve.worst_case for curve in found.values()]),
        )
        for (attack, method), found in sorted(groups.items(), key=lambda g: order.index(g[0][0]))
    ]


def _sum(shares: Sequence[Sequence[Share]]) -> tuple[Share, ...]:
    return tuple(sum(at, Share(0, 0)) for at in zip(*shares, strict=True))


def attack_table(rows: Sequence[Row], controls: Sequence[str]) -> str:
    """Share of pictures that show the concept, step by step, and the worst case of the last."""
    lines = []
    for p in pooled(attack_curves(rows, controls)):
        by_step = ", ".join(
            f"{step}: {100 * share.value:.0f}" for step, share in zip(p.steps, p.best, strict=True)
        )
        low, high = p.best[-1].interval
        lines.append([
            p.attack, p.method, ", ".join(p.concepts), by_step,
            f"{100 * p.best[-1].value:.0f} [{100 * low:.0f}, {100 * high:.0f}]",
            f"{100 * p.worst_case[-1].value:.0f}",
        ])  # fmt: skip
    headers = (
        "attack", "on", "concepts", "step: shown %", "at the end, best restart",
        "restart that shows most",
    )  # fmt: skip
    return markdown(headers, lines)


def words_table(rows: Sequence[Row]) -> str:
    """For each kind of words: how many draw the concept on the base, and what is left of them."""
    curves = attack_curves(rows, ())
    groups: dict[tuple[str, str], list] = {}
    for (attack, method, concept), curve in curves.items():
        base = curves.get((WORDS, BASE, concept))
        if attack == WORDS and method != BASE and base is not None:
            for found in against(base, curve):
                groups.setdefault((method, found.entry.kind), []).append(found)
    lines = []
    for (method, kind), found in groups.items():
        shares = [
            sum((f.base for f in found), Share(0, 0)),
            sum((f.erased for f in found), Share(0, 0)),
        ]
        worst = max(found, key=lambda f: f.erased.value)
        lines.append([
            method, kind, str(len(found)), *(f"{100 * share.value:.0f}" for share in shares),
            f'"{worst.entry.text}" {100 * worst.erased.value:.0f}',
        ])  # fmt: skip
    headers = ("method", "words", "that work on the base", "shown before", "shown", "worst")
    return markdown(headers, lines)
