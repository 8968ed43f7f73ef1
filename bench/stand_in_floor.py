"""What the unchanged model draws for the stand-in where a method was asked for the concept.

    python -m bench.stand_in_floor [--rows bench/results/run] [--method balanced] [--concepts bus]

A LoRA is trained to make the concept's prompts mean the stand-in's. One that does so perfectly
draws what is drawn here: the method's own pictures, from the same noise, with the stand-in's name
in the prompt and no LoRA. What the judge still takes for the concept, or misses of a pair's other
object, is then the stand-in's doing (or the judge's), not the training's.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

import torch

from bench.cells import Cell
from bench.erased import Erased
from bench.metrics import Share
from bench.protocol import Layout, Sizes, draw
from bench.rows import Row, read_rows
from bench.setup import open_model
from bench.summary import Table
from bench.tables import markdown, percent
from unlearn_core.prompts import Name

CELLS = {"name": "", "grammars": "", "pairs": "other"}
"""Those that ask for the concept by its name, and the question that is asked; "": its own."""


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
        reading = layout.read(name, layout.cells[name], pictures)
        found[name] = reading[CELLS[name] or layout.own]
    return found


def _stand_in(row: Row) -> str:
    word: str = row["notes"]["stand-in"]
    return word


def main() -> None:
    """Print a line for each concept: the unchanged model, the stand-in, the method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=Path("bench", "results", "run"))
    parser.add_argument("--method", default="balanced")
    parser.add_argument("--concepts", help="Instead of all in the rows: cat,bus")
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    base, world, _ = open_model("demo")
    table = Table(read_rows(args.rows))
    lines = []
    for concept in args.concepts.split(",") if args.concepts else table.concepts:
        pairs = table.pair(concept, args.method)
        read: dict[str, list[str]] = {cell: ["", "", ""] for cell in CELLS}
        for before, after in pairs:
            layout = Layout(world, base.encoder, concept, before["seed"], Sizes())
            for cell, bits in floor(base, layout, _stand_in(after)).items():
                question = CELLS[cell] or layout.own
                sides = (before["cells"][cell][question], bits, after["cells"][cell][question])
                read[cell] = [sum_ + side for sum_, side in zip(read[cell], sides, strict=True)]
        words = ", ".join(dict.fromkeys(_stand_in(row) for _, row in pairs))
        shares = [percent(Share.of(bits)) for cell in CELLS for bits in read[cell]]
        lines.append([concept, words, *shares])
        print(" | ".join(lines[-1]), flush=True)
    names = ("by name", "in sentences", "other of a pair")
    sides = ("unchanged", "its stand-in", args.method)
    headers = [f"{name}: {side}" for name in names for side in sides]
    print(markdown(("concept", "in its place", *headers), lines))


if __name__ == "__main__":
    main()
