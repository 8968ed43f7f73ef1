"""Our presets and their rivals on the demo model, in turn in one process: seconds and H_o.

Every method erases the test objects one by one, each from the unchanged model, with the settings
that were fitted on other concepts. Which method goes first changes from object to object. Seconds
are processor time, which other work on the machine hardly changes; loading the model is left out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from bench.demo_cost.many_concepts import judge
from bench.methods.find import find_method
from bench.protocol.cells import World
from bench.protocol.erased import Erased, Task
from bench.protocol.splits import TEST_OBJECTS, kept_words
from bench.protocol.task_pictures import task_pictures
from bench.report.tables import markdown

METHODS = ("quick", "balanced", "uce", "esd", "concept_ablation", "few_shot_erasing")
UNIT = "quick"
"""The method whose seconds are 1."""

Numbers = dict[str, Any]


def measure(
    base: Erased,
    world: World,
    seed: int,
    methods: Sequence[str] = METHODS,
    names: Sequence[str] = TEST_OBJECTS,
) -> Numbers:
    """Seconds and readings of every method on every object, for one seed."""
    found: dict[str, dict[str, Numbers]] = {method: {} for method in methods}
    for turn, name in enumerate(names):
        kept = kept_words(world.objects, name)
        task = Task(name, "object", task_pictures(name), seed, kept)
        for method in (*methods[turn % len(methods) :], *methods[: turn % len(methods)]):
            erase = find_method(method)
            started = time.process_time()
            erased = erase(base, task)
            seconds = time.process_time() - started
            judged = judge(world, erased, [name], kept)
            found[method][name] = {
                "seconds": seconds,
                "ira": judged["ira"],
                "cra": judged["cra"],
                "shown": judged["shown"][name],
                "h_o": judged["h_o"][name],
            }
            print(f"{name}, seed {seed}, {method}: {seconds:.1f} s", flush=True)
    return {"seed": seed, "methods": found}


def seconds_of(runs: Sequence[Numbers], method: str) -> float:
    """The median over objects and seeds."""
    return median(one["seconds"] for one in _all(runs, method))


def table(runs: Sequence[Numbers]) -> str:
    """Markdown: a line a method, over all objects and seeds."""
    unit = seconds_of(runs, UNIT)
    lines = []
    for method in runs[0]["methods"]:
        found, seconds = _all(runs, method), seconds_of(runs, method)
        h_o, shown = ([100 * one[key] for one in found] for key in ("h_o", "shown"))
        kept = [f"{100 * mean(one[key] for one in found):.1f}" for key in ("ira", "cra")]
        lines.append(
            (
                f"`{method}`",
                f"{seconds:.1f}",
                f"{seconds / unit:.2f}",
                f"{mean(h_o):.1f} / {min(h_o):.1f}",
                f"{mean(shown):.1f} / {max(shown):.1f}",
                *kept,
            )
        )
    headers = ("method", "s", f"of `{UNIT}`", "H_o, mean / worst", "shown by name", "IRA", "CRA")
    return markdown(headers, lines)


def _all(runs: Sequence[Numbers], method: str) -> list[Numbers]:
    return [one for run in runs for one in run["methods"][method].values()]
