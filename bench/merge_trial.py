"""Ways to make one LoRA of several, compared on the tuning concepts.

    python -m bench.merge_trial --out FOLDER [--heights 9,5,2] [--seeds 0,1] [--pictures 12]

`quick` forgets each concept alone (FOLDER/NAME-SEED.safetensors); then the first 2, 5 or 9 of
ORDER are merged in each of METHODS, and the cells of `bench.stacking` are looked at. In the text:
how far a concept's prompts are from where its own LoRA alone moves them, relative to how far that
is, how far the other objects' prompts move, relative to their states, and how far the empty and the
negative prompts do. In pictures, unless --pictures is 0: how often the forgotten ones are still
shown, and the other objects and their styles. Rows are kept in FOLDER/rows-PICTURES.jsonl and a
second start goes on from there; the table of all rows is printed at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.cells import Cell, World
from bench.drift import text_drift
from bench.erased import Erased
from bench.methods import with_lora
from bench.protocol import QUICK, draw
from bench.stacking import stack_cells
from unlearn_core.concept import Concept
from unlearn_core.diffusers_model import load_model
from unlearn_core.lora_file import (
    LoraPair,
    LoraWeights,
    complete,
    load_lora,
    round_to_half,
    save_lora,
)
from unlearn_core.lora_math import merge_loras
from unlearn_core.merging import fit_loras
from unlearn_core.settings import preset
from unlearn_core.text_encoder import TextEncoder
from unlearn_core.tokenizer import token_ids
from unlearn_core.unlearn import build_encoder, unlearn

ORDER = ("dog", "car", "apple", "truck", "sketch", "hamburger", "horse", "robot", "bomb")
LOW_RANK = 16
Loras = list[LoraWeights]


def summed(loras: Loras) -> LoraWeights:
    """Ranks joined end to end."""
    return merge_loras([(lora, 1.0) for lora in loras])


def summed_and_cut(loras: Loras) -> LoraWeights:
    """The sum, each projection cut to LOW_RANK by SVD."""
    pairs = {}
    for key, pair in summed(loras).pairs.items():
        left, size, right = torch.linalg.svd(pair.delta(), full_matrices=False)
        root = size[:LOW_RANK].sqrt()
        down, up = root[:, None] * right[:LOW_RANK], left[:, :LOW_RANK] * root
        pairs[key] = LoraPair(down, up, float(len(root)))
    return LoraWeights(pairs)


METHODS: dict[str, Callable[[TextEncoder, Loras], LoraWeights] | None] = {
    "nothing merged": None,
    "sum": lambda _, loras: summed(loras),
    "least squares": lambda encoder, loras: fit_loras(encoder, loras),
    f"sum cut to rank {LOW_RANK}": lambda _, loras: summed_and_cut(loras),
    f"least squares at rank {LOW_RANK}": lambda e, loras: fit_loras(e, loras, LOW_RANK),
}


def one_row(base: Erased, world: World, loras: Loras, method: str, seed: int, pictures: int) -> Any:
    """Merge and look: cell -> [right, of], and distances in the text."""
    merge = METHODS[method]
    erased = base
    if merge is not None:
        erased = with_lora(base, round_to_half(complete(merge(base.encoder, loras))))
    gone = ORDER[: len(loras)]
    sizes = dataclasses.replace(QUICK, name=pictures or QUICK.name)
    cells = stack_cells(world, gone, ORDER, seed, sizes)
    drift = text_drift(erased.encoder, base.encoder)
    row: dict[str, Any] = {
        "height": len(loras), "seed": seed, "method": method,
        "apart": [
            distance(cells[f"name:{name}"], erased, with_lora(base, lora), base)
            for name, lora in zip(gone, loras, strict=True)
        ],
        "moved": distance(cells["others"], erased, base),
        "empty": drift.pop(""), "negative": max(drift.values()), "cells": {},
    }  # fmt: skip
    for name, cell in cells.items() if pictures else ():
        seen = world.read(draw(erased, cell))
        for what, found, wanted in (
            ("object", seen.objects, cell.objects),
            ("style", seen.styles, cell.styles),
        ):
            right = sum(a == b for a, b in zip(found, wanted, strict=True))
            row["cells"][f"{name} {what}"] = [right, len(wanted)]
    return row


@torch.no_grad()
def distance(cell: Cell, first: Erased, second: Erased, start: Erased | None = None) -> float:
    """|first - second| / |second - start| of a cell's prompts; no start is zero."""
    ids = torch.cat([token_ids(prompt) for prompt in cell.prompts])
    one, other = first.encoder.encode(ids), second.encoder.encode(ids)
    whole = other if start is None else other - start.encoder.encode(ids)
    return float((one - other).norm() / whole.norm())


def table(rows: list[Any], styles: tuple[str, ...]) -> str:
    """Markdown, the seeds pooled; shown is over all forgotten concepts, worst is the worst one."""
    head = ("merged", "how", "seeds", "from its own LoRA", "others move", 'drift of "" / negative')
    seen = ("shown", "worst", "others shown", "styles") if any(r["cells"] for r in rows) else ()
    lines = [head + seen, ("---",) * len(head + seen)]
    for height in sorted({row["height"] for row in rows}):
        for method in METHODS:
            found = [r for r in rows if (r["height"], r["method"]) == (height, method)]
            if found:
                lines.append(_line(height, method, found, styles))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(height: int, method: str, found: list[Any], styles: tuple[str, ...]) -> tuple[str, ...]:
    apart = [value for row in found for value in row["apart"]]
    line = (
        str(height),
        method,
        str(len(found)),
        f"{sum(apart) / len(apart):.0%}, worst {max(apart):.0%}",
        f"{max(row['moved'] for row in found):.1%}",
        f"{max(r['empty'] for r in found):.2%} / {max(r['negative'] for r in found):.1%}",
    )
    if not found[0]["cells"]:
        return line

    def share(cell: str) -> float:
        pairs = [row["cells"][cell] for row in found]
        return sum(right for right, _ in pairs) / sum(count for _, count in pairs)

    shown = {
        name: share(f"name:{name} {'style' if name in styles else 'object'}")
        for name in ORDER[:height]
    }
    worst = max(shown, key=lambda name: shown[name])
    return (
        *line,
        f"{sum(shown.values()) / height:.1%}",
        f"{worst} {shown[worst]:.0%}",
        f"{share('others object'):.1%}",
        f"{share('others style'):.1%}",
    )


def main() -> None:
    """Do the rows that are not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--heights", default="9,5,2")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--pictures", type=int, default=12, help="of each forgotten concept")
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    args.out.mkdir(parents=True, exist_ok=True)
    rows_file = args.out / f"rows-{args.pictures}.jsonl"
    model, _ = load_model("demo")
    world = World()
    base = Erased(model, build_encoder(model), "base")

    def lora(name: str, seed: int) -> LoraWeights:
        path = args.out / f"{name}-{seed}.safetensors"
        if not path.exists():
            kind = "style" if name in world.styles else "object"
            save_lora(
                unlearn(model, Concept(name, kind=kind), preset("quick", seed=seed)).lora, path
            )
        return load_lora(path)

    rows = (
        [json.loads(line) for line in rows_file.read_text().splitlines()]
        if rows_file.exists()
        else []
    )
    done = {(row["height"], row["seed"], row["method"]) for row in rows}
    for seed in map(int, args.seeds.split(",")):
        for height in map(int, args.heights.split(",")):
            for method in METHODS:
                if (height, seed, method) in done:
                    continue
                loras = [lora(name, seed) for name in ORDER[:height]]
                row = one_row(base, world, loras, method, seed, args.pictures)
                rows.append(row)
                with rows_file.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    print(table(rows, world.styles))


if __name__ == "__main__":
    main()
