"""What the presets are meant to reach on the test concepts, and whether they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.jobs.summary import Result, Table
from bench.protocol.metrics import Difference, Share
from bench.report.tables import markdown

PRESETS = ("quick", "balanced", "robust")

Measured = Share | Difference | float | None


@dataclass(frozen=True)
class Aim:
    """A limit for the median over concepts, 0 to 1; less is better."""

    text: str
    limits: tuple[float, float, float]
    """Of PRESETS."""
    measure: Callable[[Result], Measured]

    def limit(self, preset: str) -> float:
        """For the median with one of PRESETS."""
        return self.limits[PRESETS.index(preset)]

    def name(self, presets: Sequence[str]) -> str:
        """`IRA, drop ≤ 1, 1, 2 %`; one number where the limits are the same."""
        limits = [self.limit(preset) for preset in presets]
        limits = limits if len(set(limits)) > 1 else limits[:1]
        numbers = [f"{100 * limit:g}" for limit in limits]
        return f"{self.text} ≤ {', '.join(numbers)} %"


AIMS = (
    Aim("shown by name", (0.01, 0.01, 0.01), lambda r: r.shown),
    Aim("IRA, drop", (0.01, 0.01, 0.02), lambda r: r.ira_drop),
    Aim("CRA, drop", (0.01, 0.01, 0.02), lambda r: r.cra_drop),
    Aim("worst neighbour, drop", (0.03, 0.03, 0.06), lambda r: r.near.worst if r.near else None),
    Aim("shown by held-out synonyms", (0.05, 0.03, 0.02), lambda r: r.synonyms),
    Aim("shown by description", (0.05, 0.05, 0.05), lambda r: r.described),
    Aim("shown in held-out sentences", (0.05, 0.03, 0.02), lambda r: r.grammars),
    Aim("other object of a pair, drop", (0.05, 0.05, 0.08), lambda r: r.pairs_drop),
    Aim('drift of ""', (0.01, 0.01, 0.01), lambda r: r.drift_empty),
)


def aims_table(table: Table) -> str:
    """Aim by aim and preset by preset: median / worst concept [95 % interval]; met or missed.

    Of the presets that the table holds.
    """
    lines, there = [], [name for name in PRESETS if name in table.methods]
    for aim in AIMS:
        if not any(aim.measure(r) for name in there for r in table.results(name)):
            continue
        cells = [_cell(aim, aim.limit(name), table.results(name)) for name in there]
        lines.append([aim.name(there), *cells])
    return markdown(("aim of the median", *(f"`{name}`" for name in there)), lines)


def _cell(aim: Aim, limit: float, results: list[Result]) -> str:
    found = [(value, r.concept) for r in results if (value := aim.measure(r)) is not None]
    if not found:
        return "-"
    middle = median(_number(value) for value, _ in found)
    worst, concept = max(found, key=lambda pair: _number(pair[0]))
    sign = "+" if isinstance(worst, Difference) else ""
    places = 2 if isinstance(worst, float) else 1
    said = f"{100 * middle:{sign}.{places}f} / {concept} {100 * _number(worst):{sign}.{places}f}"
    if not isinstance(worst, float):
        low, high = worst.interval
        said += f" [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
    return f"{said}; {'met' if middle <= limit else '**missed**'}"


def _number(value: Share | Difference | float) -> float:
    return value if isinstance(value, float) else value.value
