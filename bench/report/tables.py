"""Markdown tables of a run: medians and the worst concept, every concept, curves, stacks, attacks.

Shares and accuracies in percent, drops in points against the unchanged model on the same pictures,
95 % intervals in brackets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from bench.jobs.rows import Row
from bench.jobs.summary import Result, Table
from bench.methods.find import BASE
from bench.protocol.metrics import Difference, Share, verdict
from bench.report.curves import strength_curve

LIMITS = {"shown": 0.01, "generally": 0.05, "worst neighbour": 0.05, "ira": 0.02, "drift": 0.01}
"""What a run is held against; an interval that holds the limit is "not resolved"."""


def markdown(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    rule = "|" + "---|" * len(headers)
    return "\n".join(
        ["| " + " | ".join(line) + " |" for line in (headers,)]
        + [rule]
        + ["| " + " | ".join(line) + " |" for line in lines]
    )


def percent(share: Share | None) -> str:
    """`0.5 [0.1, 1.9]`."""
    if share is None or share.count == 0:
        return "-"
    low, high = share.interval
    return f"{100 * share.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def points(drop: Difference | None) -> str:
    """`+0.5 [-0.2, +1.9]`."""
    if drop is None:
        return "-"
    return f"{100 * drop.value:+.1f} [{100 * drop.low:+.1f}, {100 * drop.high:+.1f}]"


def overview(table: Table, methods: Sequence[str] | None = None) -> str:
    """One line for each method, or each of `methods`: median over concepts / the worst concept."""
    headers = (
        "method", "changes", "concepts", "UA", "Acc_g", "IRA", "CRA", "H_o",
        "three nearest, drop: mean", "worst neighbour, drop", "other of a pair, drop",
        'drift of "" / negatives', 'drift of "" in the UNet', "s", "peak MB", "file kB",
    )  # fmt: skip
    lines = []
    for method in methods or table.methods:
        results = table.results(method)
        if results:
            lines.append(_overview_line(method, results))
    return markdown(headers, lines)


def _overview_line(method: str, results: Sequence[Result]) -> list[str]:
    def both(value: Callable[[Result], float | None], worst: Callable = min, sign: str = "") -> str:
        found = [number for result in results if (number := value(result)) is not None]
        if not found:
            return "-"
        return f"{100 * median(found):{sign}.1f} / {100 * worst(found):{sign}.1f}"

    first = results[0]
    is_base = method == BASE
    return [
        method,
        first.family,
        str(len(results)),
        both(lambda r: r.ua),
        both(lambda r: r.generally, max),
        both(lambda r: r.ira.value),
        both(lambda r: r.cra.value),
        both(lambda r: r.h_o),
        "-" if is_base else both(lambda r: r.near.mean.value if r.near else None, max, "+"),
        "-" if is_base else both(lambda r: r.near.worst.value if r.near else None, max, "+"),
        "-" if is_base else both(
            lambda r: r.pairs_drop.value if r.pairs_drop else None, max, "+"
        ),
        "-" if is_base else f"{100 * max(r.drift_empty for r in results):.2f} % / "
        f"{100 * max(r.drift_negative for r in results):.2f} %",
        "-" if is_base else f"{100 * max(r.drawn_drift for r in results):.2f} %",
        "-" if is_base else f"{median(r.seconds for r in results):.0f}",
        "-" if is_base else f"{max(r.peak_bytes for r in results) / 1e6:.0f}",
        "-" if is_base else f"{max(r.file_bytes for r in results) / 1e3:.0f}",
    ]  # fmt: skip


def by_concept(table: Table, method: str) -> str:
    """One line for each concept, with intervals; † marks what the base draws in under 90 %."""
    headers = (
        "concept", "in its place", "seeds", "shown before", "shown", "in sentences", "synonyms",
        "described", "H_o", "three nearest, drop", "worst neighbour, drop", "IRA", "CRA",
        "other of a pair", "concept in a pair", "s",
    )  # fmt: skip
    lines = []
    for r in table.results(method):
        mark = " †" if r.concept in r.weak else ""
        weak = "".join(f"; {word} †" for word in r.weak if word != r.concept)
        worst = f"{r.near.worst_word} {points(r.near.worst)}" if r.near else "-"
        stand_in = ", ".join(r.stand_ins) or "-"
        pairs = f"{percent(r.pairs_before)} to {percent(r.pairs)}" if r.pairs else "-"
        lines.append([
            r.concept + mark, stand_in, str(r.seeds), percent(r.before), percent(r.shown),
            percent(r.grammars), percent(r.synonyms), percent(r.described), f"{100 * r.h_o:.1f}",
            points(r.near.mean if r.near else None), worst + weak, percent(r.ira), percent(r.cra),
            pairs, percent(r.pairs_concept), f"{r.seconds:.0f}",
        ])  # fmt: skip
    return markdown(headers, lines)


def limits(table: Table) -> str:
    """For each method and limit how many concepts meet it, miss it, or can't be told."""
    tests: dict[str, Callable[[Result], tuple[float, float] | None]] = {
        "shown": lambda r: r.shown.interval,
        "generally": lambda r: (r.synonyms or r.grammars).interval,
        "worst neighbour": lambda r: r.near.worst.interval if r.near else None,
        "ira": lambda r: r.ira_drop.interval,
        "drift": lambda r: (r.drift_empty, r.drift_empty),
    }
    names = {
        "shown": "shown by name", "generally": "shown by synonyms",
        "worst neighbour": "worst neighbour's drop", "ira": "drop of IRA", "drift": 'drift of ""',
    }  # fmt: skip
    headers = ["method", *(f"{names[key]} ≤ {100 * LIMITS[key]:g} %" for key in tests)]
    lines = []
    for method in table.methods:
        results = table.results(method)
        if method == BASE or not results:
            continue
        line = [method]
        for key, interval in tests.items():
            said = [verdict(LIMITS[key], found) for r in results if (found := interval(r))]
            words = ("met", "missed", "not resolved")
            line.append(", ".join(f"{said.count(w)} {w}" for w in words if w in said) or "-")
        lines.append(line)
    return markdown(headers, lines)


def curves(rows: Sequence[Row], methods: Sequence[str], concepts: Sequence[str]) -> str:
    """Strength by strength: median over concepts of what is shown and of what is kept."""
    lines = []
    for method in methods:
        found = [curve for c in concepts if (curve := strength_curve(rows, c, method))]
        for strength in sorted({point.strength for curve in found for point in curve}):
            at = [p for curve in found for p in curve if p.strength == strength]
            shown, kept = [p.shown.value for p in at], [p.kept.value for p in at]
            lines.append([
                method, f"{strength:g}", str(len(at)),
                f"{100 * median(shown):.1f} / {100 * max(shown):.1f}",
                f"{100 * median(kept):.1f} / {100 * min(kept):.1f}",
            ])  # fmt: skip
    headers = ("method", "strength", "concepts", "shown: median / worst", "neighbours: same")
    return markdown(headers, lines)


def stacks(rows: Sequence[Row]) -> str:
    """Each height: what is still shown of the forgotten, and what else is kept."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["stage"] == "stacking" and "failed" not in row:
            found.setdefault((row["method"], row["detail"]), []).append(row)
    lines = []
    for (method, detail), same in found.items():
        shown = {
            name: Share.of("".join(r["cells"][f"name:{name}"][kind] for r in same))
            for name, kind in same[0]["gone"].items()
        }
        worst = max(shown, key=lambda name: shown[name].value, default="")
        others, styles = (
            Share.of("".join(r["cells"]["others"][q] for r in same)) for q in ("object", "style")
        )
        total = sum(shown.values(), Share(0, 0))
        drift = max(next(iter(r["drift"].values())) for r in same)
        lines.append([
            method, detail, percent(total), f"{worst} {percent(shown.get(worst))}".strip(),
            percent(others), percent(styles), f"{100 * drift:.2f} %",
            f"{max(r['file_bytes'] for r in same) / 1e3:.0f}",
        ])  # fmt: skip
    headers = (
        "method", "files", "shown, all", "shown, worst", "other objects", "styles",
        'drift of ""', "kB",
    )  # fmt: skip
    return markdown(headers, lines)
