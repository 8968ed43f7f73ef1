"""What the unchanged model draws for the stand-in where a method was asked for the concept.

    python -m bench trial stand_in_floor [--rows FOLDER] [--method balanced] [--concepts bus]

A LoRA is trained to make the concept's prompts mean the stand-in's. One that does so perfectly
draws what is drawn here: the method's own pictures, from the same noise, with the stand-in's name
in the prompt and no LoRA. What the judge still takes for the concept, or misses of a pair's other
object, is then the stand-in's doing (or the judge's), not the training's.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from bench.jobs.rows import read_rows
from bench.jobs.summary import Table
from bench.protocol.cells import Cell
from bench.protocol.erased import Erased
from bench.protocol.layout import FULL, Layout, draw
from bench.protocol.metrics import Share
from bench.protocol.setup import open_model
from bench.report.tables import markdown, percent
from unlearn_core.words.prompts import Name

CELLS = {"name": "by name", "grammars": "in sentences", "pairs": "other of a pair"}
"""Those that ask for the concept by its name, and what the table calls them."""


def renamed(cell: Cell, name: str, stand_in: str) -> Cell:
    """The same cell with `stand_in` for `name` in its prompts, its article with it."""
    pattern = re.compile(rf"\b(an? )?{re.escape(name)}\b")
    article = Name.of(stand_in).article

    def put(match: re.Match[str]) -> str:
        return (article if match[1] else "") + stand_in

    return dataclasses.replace(cell, prompts=tuple(pattern.sub(put, p) for p in cell.prompts))


def floor(base: Erased, layout: Layout, stand_in: str) -> dict[str, str]:
    """Cell -> what the judge reads in the stand-in's pictures, one "1" or "0" each."""
    found = {}
    for name in CELLS.keys() & layout.cells.keys():
        pictures = draw(base, renamed(layout.cells[name], layout.name, stand_in))
        found[name] = layout.read(name, layout.cells[name], pictures)[_question(layout, name)]
    return found


def _question(layout: Layout, cell: str) -> str:
    """What the judge is asked: whether the other of a pair is there, else the concept."""
    return "other" if cell == "pairs" else layout.own


def main(words: Sequence[str]) -> None:
    """Print a line for each concept: the unchanged model, the stand-in, the method."""
    parser = argparse.ArgumentParser(
        prog="python -m bench trial stand_in_floor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=Path, default=Path("bench", "results", "run"))
    parser.add_argument("--method", default="balanced")
    parser.add_argument("--concepts", help="Instead of all in the rows: cat,bus")
    args = parser.parse_args(words)
    base, world, _ = open_model("demo")
    table = Table(read_rows(args.rows))
    lines = []
    for concept in args.concepts.split(",") if args.concepts else table.concepts:
        pairs = table.pair(concept, args.method)
        words = [row["notes"].get("stand-in") for _, row in pairs]
        if not words or not all(words):
            parser.error(f"{args.rows} has no stand-in of {args.method} for {concept}.")
        read: dict[str, list[str]] = {cell: ["", "", ""] for cell in CELLS}
        for (before, after), word in zip(pairs, words, strict=True):
            layout = Layout(world, base.encoder, concept, before["seed"], FULL)
            for cell, bits in floor(base, layout, word).items():
                old, new = (row["cells"][cell][_question(layout, cell)] for row in (before, after))
                for side, more in enumerate((old, bits, new)):
                    read[cell][side] += more
        shares = [percent(Share.of(bits)) for cell in CELLS for bits in read[cell]]
        lines.append([concept, ", ".join(dict.fromkeys(words)), *shares])
        print(" | ".join(lines[-1]), flush=True)
    sides = ("unchanged", "its stand-in", args.method)
    headers = [f"{name}: {side}" for name in CELLS.values() for side in sides]
    print(markdown(("concept", "in its place", *headers), lines))
