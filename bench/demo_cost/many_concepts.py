"""What it costs to forget several objects in one run, and how far they get in each other's way.

Runs on the demo model. For each height k one run on the first k objects of a shuffled list, and
each of the first `alone` objects by itself. Both sides are judged on the same pictures: every
forgotten object by name and in other sentences, and all that no run of that height has forgotten.
Seconds are processor time, which other work on the machine hardly changes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.emoji_canvas.captions import HELD_OUT_GRAMMARS
from bench.methods.stacking import joint
from bench.protocol.cells import Cell, World
from bench.protocol.erased import Erased, Task
from bench.protocol.layout import draw
from bench.protocol.metrics import Share, overall
from bench.report.plots import save

ORDER_SEED = 11
NAMED, REST = 24, 120
"""Pictures of a forgotten object, by name and in sentences, and of everything else together."""

Numbers = dict[str, Any]

HARM: tuple[tuple[str, str, Callable[[Numbers], float]], ...] = (
    ("H_o", "o#0072B2", lambda one: mean(one["h_o"].values())),
    ("other objects kept", "s#009E73", lambda one: one["ira"]),
    ("worst concept shown", "^#D55E00", lambda one: max(one["shown"].values())),
)
"""What is drawn of a run: label, marker and colour, value."""


def objects_in_order(world: World) -> list[str]:
    """All objects, the tuning and the test concepts among them, shuffled once and for all."""
    objects = sorted(world.objects)
    random.Random(ORDER_SEED).shuffle(objects)
    return objects


def run(base: Erased, names: Sequence[str], method: str, seed: int) -> tuple[Erased, float]:
    """One run on all names: the erased model, and its processor seconds."""
    tasks = [Task(name, "object", seed=seed) for name in names]
    started = time.process_time()
    return joint(base, tasks, method), time.process_time() - started


def judge(world: World, erased: Erased, gone: Sequence[str], rest: Sequence[str]) -> Numbers:
    """H_o of each forgotten object, with IRA and CRA on the `rest`, which no run has forgotten."""

    def read(cell: Cell) -> list[Share]:
        """Of objects and of styles."""
        return [Share.of(bits) for bits in world.agreement(cell, draw(erased, cell)).values()]

    ira, cra = read(world.cell([(w, w) for w in rest], REST, seed=3))
    shown, h_o = {}, {}
    for name in gone:
        by_name = read(world.cell([(name, name)], NAMED, seed=1))[0]
        other = world.cell([(name, name)], NAMED, seed=5, grammars=HELD_OUT_GRAMMARS)
        generally = read(other)[0].value
        shown[name] = by_name.value
        h_o[name] = overall(1 - by_name.value, generally, ira.value, cra.value)
    return {"ira": ira.value, "cra": cra.value, "shown": shown, "h_o": h_o}


def measure(
    base: Erased, world: World, method: str, heights: Sequence[int], alone: int, seed: int
) -> Numbers:
    """All runs of one seed."""
    order = objects_in_order(world)
    singles: dict[str, Numbers] = {}
    rest = order[max(alone, 1) :]
    for name in order[:alone]:
        erased, seconds = run(base, [name], method, seed)
        judged = judge(world, erased, [name], rest)
        singles[name] = {"seconds": seconds, "h_o": judged["h_o"][name]}
        print(f"alone, {name}: {seconds:.1f} s, H_o {100 * singles[name]['h_o']:.1f}", flush=True)
    together = []
    for height in heights:
        gone = order[:height]
        erased, seconds = run(base, gone, method, seed)
        # Up to `alone` objects are judged on the same rest as the single runs.
        others = rest if height <= alone else order[height:]
        judged = {"k": height, "seconds": seconds, **judge(world, erased, gone, others)}
        together.append(judged)
        print(line(judged, singles), flush=True)
    return {"seed": seed, "alone": singles, "together": together}


def line(judged: Numbers, singles: dict[str, Numbers]) -> str:
    """One run in words."""
    shown = judged["shown"].values()
    words = (
        f"k = {judged['k']}: {judged['seconds']:.1f} s, shown {100 * mean(shown):.1f} % "
        f"(worst {100 * max(shown):.1f} %), IRA {100 * judged['ira']:.1f}, "
        f"CRA {100 * judged['cra']:.1f}, H_o {100 * mean(judged['h_o'].values()):.1f}"
    )
    if singles:
        share, behind = compared(judged, singles)
        words += (
            f", {100 * behind:+.1f} behind the single runs, {share:.2f} of the time of "
            f"{judged['k']} of them"
        )
    return words


def compared(judged: Numbers, singles: dict[str, Numbers]) -> tuple[float, float]:
    """(Its part of the time of as many single runs, how far its H_o is behind theirs).

    Behind in the mean of the concepts that were forgotten alone too.
    """
    single = mean(one["seconds"] for one in singles.values()) * judged["k"]
    both = [name for name in judged["h_o"] if name in singles]
    behind = mean(singles[name]["h_o"] - judged["h_o"][name] for name in both)
    return judged["seconds"] / single, behind


def save_plot(
    runs: Sequence[Numbers], path: Path, full_size: Mapping[int, float] | None = None
) -> None:
    """Cost and interference against the number of concepts, a line for each seed.

    `full_size`: seconds at SD2's size, which get a panel of their own.
    """
    count = 3 if full_size else 2
    figure, panels = plt.subplots(1, count, figsize=(4.5 * count, 3.6), layout="constrained")
    for seeded in runs:
        together = {one["k"]: one for one in seeded["together"]}
        single = mean(one["seconds"] for one in seeded["alone"].values())
        _cost_panel(panels[0], {k: one["seconds"] for k, one in together.items()}, single)
        for label, look, value in HARM:
            values = [100 * value(one) for one in together.values()]
            panels[1].plot(list(together), values, look[0] + "-", color=look[1:], label=label)
    if full_size:
        _cost_panel(panels[2], dict(sorted(full_size.items())), full_size.get(1))
    titles = ("demo model", "demo model", "SD2's size, random weights")
    units = ("processor seconds", "%", "seconds")
    for axes, title, unit in zip(panels, titles, units, strict=False):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("concepts in one run")
        axes.set_ylabel(unit)
        axes.grid(alpha=0.25)
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))  # not for every seed again
        axes.legend(once.values(), once.keys(), frameon=False, fontsize=9)
    save(figure, path)


def _cost_panel(axes: Axes, seconds: Mapping[int, float], single: float | None) -> None:
    """Seconds by the number of concepts, beside as many single runs."""
    axes.plot(list(seconds), list(seconds.values()), "o-", color="#0072B2", label="one run")
    if single is not None:
        several = [single * height for height in seconds]
        axes.plot(list(seconds), several, "--", color="#7F7F7F", label="as many single runs")
