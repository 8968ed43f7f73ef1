"""Does a learned word vector bring a forgotten concept back?

    python -m bench.inversion_attack --concepts dog,apple,car --out FILE.json

Textual inversion with 1 and 4 vectors, 500 steps, from five pictures and the word "object" (CCE,
Pham et al. 2023, arXiv 2308.01508), against three text encoders: the base model's; one that
forgot with a plain LoRA (rank 8, the last two layers, 120 steps, nothing learned from pictures);
and the preset `balanced`. The judge reads 48 plain and 48 styled prompts with the learned vectors.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from bench.cells import World, draw_cell, share
from unlearn_core.concept import Concept
from unlearn_core.demo_model import demo_folder
from unlearn_core.diffusers_model import DiffusersModel, load_model
from unlearn_core.inversion import invert
from unlearn_core.lent_model import SilentMonitor
from unlearn_core.lora_math import apply_lora
from unlearn_core.pictures import read_pictures
from unlearn_core.settings import UnlearnSettings, preset
from unlearn_core.text_encoder import TextEncoder
from unlearn_core.tokenizer import VOCABULARY
from unlearn_core.unlearn import unlearn

ATTACK = UnlearnSettings(inversion_steps=500, inversion_learning_rate=0.3, inversion_batch=8)
PLAIN = preset(
    "quick",
    closed_form=False,
    layers="last:2",
    steps=120,
    templates="plain",
    null_space_guard=False,
)
PICTURES = 48
START_WORD = "object"


def attack(
    model: DiffusersModel, encoder: TextEncoder, world: World, concept: str, vectors: int
) -> dict[str, float]:
    """Learn vectors from the concept's pictures; share of drawings that show it."""
    images = read_pictures(demo_folder() / "pictures" / concept)
    settings = ATTACK.replace(inversion_vectors=vectors)
    started = time.monotonic()
    learned = invert(
        model,
        encoder,
        Concept(START_WORD, images=images),
        settings,
        world.styles,
        SilentMonitor(),
    )
    placeholders = {"<v>": list(range(VOCABULARY, VOCABULARY + vectors))}
    shares = {"seconds": time.monotonic() - started, "last_loss": learned.losses[-1]}
    for name, grammars in (
        ("plain", ["a photo of a <v>", "a picture of a <v>"]),
        ("styled", ["a <v>, {style} style", "a <v> in the style of {style}"]),
    ):
        cell = world.cell([("<v>", concept)], PICTURES, seed=21, grammars=grammars)
        pictures = draw_cell(model, encoder, cell, learned.vectors, placeholders)
        shares[name] = share(world.read(pictures).objects, cell.objects)
    return shares


def erased_encoder(
    model: DiffusersModel, world: World, concept: str, settings: UnlearnSettings
) -> TextEncoder:
    """The model's text encoder after forgetting the concept."""
    images = read_pictures(demo_folder() / "pictures" / concept) if settings.use_pictures else ()
    result = unlearn(model, Concept(concept, world.synonyms(concept), images=images), settings)
    weights = apply_lora(model.text_encoder_weights(), result.lora)
    return TextEncoder(weights, model.last_used_layer, model.device)


def main() -> None:
    """Attack every concept and print a line for each attack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concepts", default="dog,apple,car")
    parser.add_argument("--presets", default="plain,balanced")
    parser.add_argument("--vectors", default="1,4")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    model, _ = load_model("demo")
    world = World()
    rows = []
    for concept in args.concepts.split(","):
        for target in ("base", *args.presets.split(",")):
            if target == "base":
                weights = model.text_encoder_weights()
                encoder = TextEncoder(weights, model.last_used_layer, model.device)
            else:
                settings = PLAIN if target == "plain" else preset(target)
                encoder = erased_encoder(model, world, concept, settings)
            for vectors in map(int, args.vectors.split(",")):
                shares = attack(model, encoder, world, concept, vectors)
                rows.append({"concept": concept, "encoder": target, "vectors": vectors, **shares})
                print(rows[-1], flush=True)
                args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
