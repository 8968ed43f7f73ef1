"""The plots of a run: Pareto, strength curves, attack curves, cost. PNG, by matplotlib's Agg.

Colours are those of Okabe and Ito (2008, "Color Universal Design"), told apart with every common
colour blindness; markers differ as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.jobs.rows import Row
from bench.jobs.summary import Result, Table
from bench.methods.find import BASE, METHODS
from bench.report.attack_summary import CONTROL, attack_curves, pooled
from bench.report.curves import strength_curve
from unlearn_core.measuring.judge import wilson

COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8F7F00",
    "#7F7F7F", "#661100",
)  # fmt: skip
"""Okabe and Ito's, their yellow darkened for white paper, and two more."""
MARKERS = "osD^vP*Xph"
DPI = 130
CORNER = 88
"""Percent from which on a Pareto plot shows both axes at least, so that noise doesn't fill it."""


def look_of(method: str) -> tuple[str, str]:
    """(colour, marker): the same in every plot."""
    name = method.partition(":")[0]
    return look(METHODS.index(name) if name in METHODS else len(METHODS) - 1)


def look(number: int) -> tuple[str, str]:
    """(colour, marker), another for each number below ten."""
    return COLOURS[number], MARKERS[number]


def pareto(table: Table, title: str, words: Mapping[str, str] | None = None) -> Figure:
    """What is gone against what is kept: small points are concepts, large ones their median.

    The settings of one method have its look, and a line joins them; below, the corner from CORNER
    on. With `words`, method -> what the legend calls it, these alone are shown, each with a look of
    its own.
    """
    rows = 2 if words is None else 1
    figure, grid = plt.subplots(
        rows, 2, figsize=(10, 4.4 * rows), sharey="row", squeeze=False, layout="constrained"
    )
    panels = (
        (_nearest_kept, "the worst of three nearest neighbours: what it keeps, %"),
        (_rest_kept, "mean of IRA and CRA, %"),
    )
    for number, line in enumerate(grid):
        for axes, (kept, label) in zip(line, panels, strict=True):
            _pareto_panel(axes, table, kept, words)
            axes.set_xlabel(label)
            axes.grid(alpha=0.25)
            lows = (CORNER, CORNER) if number else (axes.get_xlim()[0], axes.get_ylim()[0])
            for low, limit in zip(lows, (axes.set_xlim, axes.set_ylim), strict=True):
                low = min(low, CORNER)
                limit(low, 100 + 0.04 * (100 - low))
        line[0].set_ylabel("gone: pictures of name and synonyms\nwithout the concept, %")
    handles, labels = grid[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _pareto_panel(
    axes: Axes,
    table: Table,
    kept: Callable[[Result], float | None],
    words: Mapping[str, str] | None,
) -> None:
    middles: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for number, method in enumerate(words or table.methods):
        points = [
            (100 * x, 100 * _gone(result))
            for result in table.results(method)
            if (x := kept(result)) is not None
        ]
        if not points:
            continue
        name = method.partition(":")[0] if words is None else words[method]
        colour, marker = look_of(method) if words is None else look(number)
        xs, ys = zip(*points, strict=True)
        axes.scatter(xs, ys, s=14, color=colour, marker=marker, alpha=0.35, linewidths=0)
        middles.setdefault((name, colour, marker), []).append((median(ys), median(xs)))
    for (name, colour, marker), found in middles.items():
        ys, xs = zip(*sorted(found), strict=True)
        axes.plot(xs, ys, color=colour, linewidth=0.8, alpha=0.5)
        axes.scatter(
            xs, ys, s=90, color=colour, marker=marker,
            edgecolors="white", linewidths=0.8, label=name, zorder=3,
        )  # fmt: skip


def _gone(result: Result) -> float:
    both = [result.shown, *([result.synonyms] if result.synonyms else [])]
    return 1 - sum(share.hits for share in both) / max(1, sum(share.count for share in both))


def _nearest_kept(result: Result) -> float | None:
    return None if result.near is None else 1 - result.near.worst.value


def _rest_kept(result: Result) -> float | None:
    return (result.ira.value + result.cra.value) / 2


def strength_curves(rows: Sequence[Row], methods: Sequence[str], concepts: Sequence[str]) -> Figure:
    """Share shown and neighbours kept by LoRA strength: median over concepts, each one thin."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharex=True, layout="constrained")
    for axes, part, label in zip(
        panels, ("shown", "kept"), ("concept shown, %", "nearest neighbours shown, %"), strict=True
    ):
        for method in methods:
            colour, marker = look_of(method)
            by_strength: dict[float, list[float]] = {}
            for concept in concepts:
                curve = strength_curve(rows, concept, method)
                ys = [100 * getattr(point, part).value for point in curve]
                axes.plot([p.strength for p in curve], ys, color=colour, alpha=0.2, linewidth=0.8)
                for point, y in zip(curve, ys, strict=True):
                    by_strength.setdefault(point.strength, []).append(y)
            xs = sorted(by_strength)
            axes.plot(
                xs, [median(by_strength[x]) for x in xs],
                color=colour, marker=marker, markersize=5, label=method,
            )  # fmt: skip
        axes.set_xlabel("LoRA strength")
        axes.set_ylabel(label)
        axes.axvline(1, color="#999999", linewidth=0.8, linestyle=":")
        axes.set_ylim(-3, 103)
        axes.grid(alpha=0.25)
    panels[0].legend(frameon=False, fontsize=9)
    return figure


def attacks(rows: Sequence[Row], controls: Sequence[str]) -> Figure:
    """Share of pictures that show the concept by the attack's steps, with Wilson intervals."""
    groups = pooled(attack_curves(rows, controls))
    names = list(dict.fromkeys(group.attack for group in groups))
    figure, panels = plt.subplots(
        1, len(names), figsize=(1 + 3.4 * len(names), 3.8), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, name in zip(panels[0], names, strict=True):
        for group in groups:
            if group.attack == name:
                _attack_line(axes, group.method, group.steps, group.best)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("steps of the attack")
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlim(left=-1)
        axes.set_ylim(-3, 103)
        axes.grid(alpha=0.25)
    panels[0][0].set_ylabel("pictures that show the concept, %")
    handles = {}
    for axes in panels[0]:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9
    )
    return figure


def _attack_line(axes: Axes, method: str, steps: Sequence[int], shares: Sequence) -> None:
    is_control = method == CONTROL
    colour, marker = ("#777777", "x") if is_control else look_of(method)
    label = {CONTROL: "base, never taught"}.get(method, method)
    ys = [100 * share.value for share in shares]
    spans = [wilson(share.hits, share.count) for share in shares]
    axes.plot(
        steps, ys, color=colour, marker=marker, markersize=5, label=label,
        linestyle="--" if is_control or method == BASE else "-",
    )  # fmt: skip
    lows, highs = ([100 * span[i] for span in spans] for i in (0, 1))
    axes.fill_between(steps, lows, highs, color=colour, alpha=0.12, linewidth=0)


def cost(table: Table) -> Figure:
    """Seconds, memory and file size of each method: bars are medians over concepts."""
    methods = [m for m in table.methods if m != BASE and table.results(m)]
    figure, panels = plt.subplots(
        1, 3, figsize=(10, 1.2 + 0.3 * len(methods)), sharey=True, layout="constrained"
    )
    values = (
        ("seconds", lambda r: r.seconds),
        ("peak memory, MB", lambda r: r.peak_bytes / 1e6),
        ("handed on, kB", lambda r: r.file_bytes / 1e3),
    )
    for axes, (label, value) in zip(panels, values, strict=True):
        numbers = [median(value(r) for r in table.results(m)) for m in methods]
        bars = axes.barh(methods, numbers, color=[look_of(m)[0] for m in methods])
        axes.bar_label(bars, [f"{number:,.3g}" for number in numbers], padding=3, fontsize=8)
        axes.set_xlabel(label)
        axes.margins(x=0.25)
        axes.grid(axis="x", alpha=0.25)
        axes.set_axisbelow(True)
    panels[0].invert_yaxis()
    return figure


def bars_beside(names: Sequence[str], values: dict[str, Sequence[float]], unit: str) -> Figure:
    """A group of bars for each name, one bar for each of `values`."""
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(names) + 1.2), layout="constrained")
    height = 0.8 / len(values)
    for number, (label, numbers) in enumerate(values.items()):
        places = [row + number * height for row in range(len(names))]
        axes.barh(places, numbers, height, label=label)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.legend(frameon=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the PNG and let the figure go."""
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
