"""Which layers, ranks, losses and prompts: variants of our presets, on tuning concepts alone.

    python -m bench ablate                         every family, three seeds
    python -m bench ablate --families "loop: layers,loop: keep"

Each family changes one thing. Those named "least squares" vary the closed form without a step,
those named "loop" 150 steps from zero, without pictures, so that both see words only. Two families
are attacked, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.jobs.command import add_pace, do_jobs
from bench.jobs.plan import Plan
from bench.jobs.rows import read_rows
from bench.jobs.summary import Table
from bench.methods.find import BASE
from bench.protocol.layout import Sizes
from bench.protocol.setup import ModelChoice
from bench.report import plots, tables
from bench.report.attack_summary import attack_table
from unlearn_core.errors import BadSettings

CONCEPTS = ("dog", "truck", "sketch")
SIZES = Sizes(name=24, near=12, other=1)
LOOP = "balanced:use_pictures=False+stand_in_pictures=0"
SEEN = "balanced:stand_in_pictures=0"
"""LOOP, and vectors learned from the pictures."""
LEAST_SQUARES = "quick"


def _each(start: str, *changes: str) -> tuple[str, ...]:
    joint = "+" if ":" in start else ":"
    return (start, *(f"{start}{joint}{change}" for change in changes))


FAMILIES: dict[str, tuple[str, ...]] = {
    "start and steps": (
        LEAST_SQUARES,
        "quick:layers=last:3",
        "quick:steps=12+layers=last:3",
        "quick:steps=40+layers=last:3",
        "quick:steps=40+layers=last:3+closed_form=False",
        LOOP,
        f"{LOOP}+closed_form=True",
    ),
    "least squares: rank": _each(LEAST_SQUARES, "rank=1", "rank=2", "rank=4", "rank=16"),
    "least squares: prompts": _each(
        LEAST_SQUARES, "forget_prompts=64", "forget_prompts=128", "forget_prompts=512",
        "keep_prompts=64", "keep_prompts=768",
    ),
    "least squares: keep": _each(
        LEAST_SQUARES, "keep_weight=0.0", "keep_weight=0.5", "keep_weight=8.0",
        "null_space_guard=False",
    ),
    "loop: layers": _each(
        LOOP, "layers=last:1+rank=24", "layers=last:2+rank=12", "layers=last:4+rank=6",
        "layers=first:1+rank=24", "layers=first:4+rank=6", "layers=first:1,last:2",
        "layers=all+rank=4",
    ),
    "loop: rank and steps": _each(LOOP, "rank=1", "rank=16", "steps=50", "steps=300"),
    "loop: modules": _each(LOOP, "modules=attention+rank=18", "modules=mlp+rank=14"),
    "loop: keep": _each(
        LOOP, "keep_weight=0.0", "null_space_guard=False",
        "null_space_guard=False+guard_weight=0.0",
    ),
    "loop: adversary": (*_each(LOOP, "adversary=pgd", "adversary=pgd+layers=all+rank=4"), SEEN),
    "pictures": (*_each(SEEN, "inversion_steps=50", "objective=ascent"), LOOP),
}  # fmt: skip
"""Family -> methods; the first is what the others change. Layers and modules have equal budgets:
the rank makes up for their number."""
ATTACKED_FAMILIES = ("loop: adversary", "loop: layers")
ATTACKED_CONCEPTS = ("dog",)
"""Those of CONCEPTS that have pictures for an attack."""
STAGES = ("sweeps", "attacks")


def ablation_plan(families: tuple[str, ...]) -> Plan:
    """The base model and every variant of these families, each once; raises BadSettings.

    Those of ATTACKED_FAMILIES are attacked on one concept, with one seed.
    """
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown:
        raise BadSettings(f"Unknown family: {', '.join(unknown)}. Known: {', '.join(FAMILIES)}.")
    attacked = [family for family in ATTACKED_FAMILIES if family in families]
    return Plan(
        sweep_concepts=CONCEPTS,
        sweep_methods=(BASE, *_methods(families)),
        sweep_sizes=SIZES,
        attacked=ATTACKED_CONCEPTS if attacked else (),
        attack_methods=_methods(attacked),
        attacks=("inversion 1",),
        controls=(),
    )


def main(words: Sequence[str]) -> None:
    """Do what is left of some families, then write their tables and plots."""
    parser = argparse.ArgumentParser(
        prog="python -m bench ablate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("out", "ablations"))
    parser.add_argument("--families", default=",".join(FAMILIES), help="Some of: %(default)s.")
    add_pace(parser)
    args = parser.parse_args(words)
    plan = ablation_plan(tuple(args.families.split(",")))
    do_jobs(ModelChoice(), plan, args.out, STAGES, args)
    print(f"report: {write_ablations(args.out)}")


def _methods(families: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(method for family in families for method in FAMILIES[family]))


def shown_words(method: str) -> str:
    """What a plot calls it: "layers=all, rank=4"."""
    for start, words in ((LOOP, "loop"), (SEEN, "loop, pictures")):
        if method.startswith(start):
            changes = method.removeprefix(start).strip("+").replace("+", ", ")
            return changes or words
    return method


def write_ablations(out: Path) -> Path:
    """OUT/ablations.md and a plot for each family, from the rows that are there; the file."""
    rows = read_rows(out)
    table = Table(rows, "sweeps")
    parts = ["# Ablations", f"Concepts: {', '.join(table.concepts)}."]
    for family, methods in FAMILIES.items():
        found = [method for method in (BASE, *methods) if table.results(method)]
        if len(found) > 2:
            parts += [f"## {family}", tables.overview(table, found)]
            figure = plots.pareto(
                table, family, {method: shown_words(method) for method in found[1:]}
            )
            name = family.replace(":", "").replace(",", "").replace(" ", "-")
            plots.save(figure, out / f"{name}.png")
    if any(row["stage"] == "attacks" for row in rows):
        parts += ["## Attacks", attack_table(rows, controls=())]
    path = out / "ablations.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path
