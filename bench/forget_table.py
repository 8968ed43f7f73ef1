"""The table of the README: how well concepts are forgotten and everything else is kept.

    python -m bench.forget_table --out FOLDER [--presets quick,balanced,paper] [--part 0/2]

Concepts and protocol were fixed before the first run; nothing was tuned on them. Each cell is a
set of pictures in grammars that the eraser's templates lack (`cells.GRAMMARS`), the noise paired
before and after. For every preset, concept and seed:

  concept      200 pictures, its name and synonyms taking turns: share that shows the concept
  neighbours   70 pictures for each of the three nearest of its kind: share that shows them
  others       two pictures for each other object (a style: 80 in each other style)
  styles       share of those pictures in the style that was asked for
  drift        of the empty prompt and of common negative prompts

Every finished row is kept in FOLDER/rows.jsonl and a second start goes on from there. `--part k/n`
does every n-th row, for n processes side by side.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from bench.cells import GRAMMARS, Cell, World, draw_cell, share
from unlearn_core.concept import Concept
from unlearn_core.demo_model import demo_folder
from unlearn_core.diffusers_model import DiffusersModel, load_model
from unlearn_core.lora_file import save_lora
from unlearn_core.lora_math import apply_lora
from unlearn_core.losses import drift
from unlearn_core.pictures import read_pictures
from unlearn_core.prompt_templates import GUARD_PROMPTS
from unlearn_core.settings import preset
from unlearn_core.stand_in import look_around
from unlearn_core.text_encoder import TextEncoder
from unlearn_core.tokenizer import token_ids
from unlearn_core.unlearn import build_encoder, unlearn

CONCEPTS = ("cat", "strawberry", "bus", "sunflower", "pizza", "owl", "flat")
PRESETS = ("quick", "balanced", "paper")
SEEDS = (0, 1, 2)
CONCEPT_PICTURES, NEIGHBOUR_PICTURES, OTHER_PICTURES = 200, 70, 2
STYLE_GRAMMARS = (GRAMMARS[0], GRAMMARS[2])


class Protocol:
    """The cells of one concept; each seed draws other prompts and noise."""

    def __init__(self, world: World, base: TextEncoder, name: str, seed: int) -> None:
        """Lay the cells out; neighbours are the nearest of the same kind, whatever was kept."""
        self.name = name
        self.is_style = name in world.styles
        kind = "style" if self.is_style else "object"
        near = look_around(base, Concept(name, world.synonyms(name), kind)).nearest(200)
        start = 1000 * seed
        if self.is_style:
            others = [style for style in world.styles if style != name]
            words = [(word, word) for word in world.objects]
            self.neighbours = tuple(others)
            self.concept = world.cell(words, CONCEPT_PICTURES, start + 1, [name], STYLE_GRAMMARS)
            self.near = {
                style: world.cell(words, NEIGHBOUR_PICTURES, start + 2, [style], STYLE_GRAMMARS)
                for style in others
            }
            self.others = world.cell(words, 80, start + 3, others, STYLE_GRAMMARS)
        else:
            self.neighbours = tuple(word for word in near if word in world.objects)[:3]
            names = [(word, name) for word in (name, *world.synonyms(name))]
            self.concept = world.cell(names, CONCEPT_PICTURES, start + 1)
            self.near = {
                word: world.cell([(word, word)], NEIGHBOUR_PICTURES, start + 2)
                for word in self.neighbours
            }
            rest = [(word, word) for word in world.objects if word != name]
            self.others = world.cell(rest, OTHER_PICTURES * len(rest), start + 3)

    def measure(self, model: DiffusersModel, world: World, encoder: TextEncoder) -> dict:
        """Draw and judge every cell with this text encoder; counts and pictures per cell."""

        def seen(cell: Cell) -> tuple[float, float]:
            reading = world.read(draw_cell(model, encoder, cell))
            return share(reading.objects, cell.objects), share(reading.styles, cell.styles)

        concept = seen(self.concept)
        near = {word: seen(cell) for word, cell in self.near.items()}
        others = seen(self.others)
        own = 1 if self.is_style else 0
        return {
            "shown": concept[own],
            "shown_other_domain": concept[1 - own],
            "neighbours": {word: value[own] for word, value in near.items()},
            "others": others[0],
            "styles": others[1],
        }


def one_row(
    model: DiffusersModel,
    world: World,
    base: TextEncoder,
    name: str,
    setting: str,
    seed: int,
    folder: Path,
) -> dict:
    """Forget (or, for "base", don't) and measure."""
    protocol = Protocol(world, base, name, seed)
    row: dict = {"concept": name, "preset": setting, "seed": seed}
    encoder = base
    if setting != "base":
        settings = preset(setting, seed=seed)
        images = read_pictures(demo_folder() / "pictures" / name) if setting != "quick" else ()
        kind = "style" if protocol.is_style else "object"
        concept = Concept(name, world.synonyms(name), kind, images=images)
        started = time.monotonic()
        result = unlearn(model, concept, settings)
        row |= {"seconds": time.monotonic() - started, "stand_in": result.stand_in.word}
        row["explained"] = result.learned.explained if result.learned else None
        save_lora(result.lora, folder / f"forget-{name}-{setting}-{seed}.safetensors")
        weights = apply_lora(model.text_encoder_weights(), result.lora)
        encoder = TextEncoder(weights, model.last_used_layer, model.device)
        ids = torch.cat([token_ids(prompt) for prompt in GUARD_PROMPTS])
        with torch.no_grad():
            row["drift"] = drift(encoder.encode(ids), base.encode(ids)).tolist()
    return row | protocol.measure(model, world, encoder)


def main() -> None:
    """Do the rows that are not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--part", default="0/1")
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    args.out.mkdir(parents=True, exist_ok=True)
    rows_file = args.out / "rows.jsonl"
    part, parts = map(int, args.part.split("/"))
    model, _ = load_model("demo")
    world, base = World(), build_encoder(model)
    jobs = [
        (name, setting, seed)
        for seed in SEEDS
        for setting in ("base", *args.presets.split(","))
        for name in CONCEPTS
    ]
    for number, (name, setting, seed) in enumerate(jobs):
        text = rows_file.read_text() if rows_file.exists() else ""
        done = {(r["concept"], r["preset"], r["seed"]) for r in map(json.loads, text.splitlines())}
        if (name, setting, seed) in done or number % parts != part:
            continue
        row = one_row(model, world, base, name, setting, seed, args.out)
        with rows_file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
