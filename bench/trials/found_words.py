"""How often the model's own word for a concept's pictures is the concept's name.

    python -m bench trial found_words [--json FILE]

finds words for the pictures of each tuning concept, and for those of the controls, which the demo
model never learned and for which none should be found. The nouns are also sifted by their general
words, as a model that knows thousands has them, to see how many lie before the right one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.attacks.pictures import attack_pictures
from bench.protocol.splits import CONTROLS, SEEDS, TUNING
from bench.protocol.task_pictures import COUNT, task_pictures
from unlearn_core.concept import Kind
from unlearn_core.errors import BadConcept
from unlearn_core.loaders.demo_model import load_demo_world
from unlearn_core.loaders.diffusers_model import DiffusersModel, load_model
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.models.sampling import encode_pictures
from unlearn_core.progress import SilentMonitor
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.word_tables import nouns
from unlearn_core.words.naming import find_words
from unlearn_core.words.word_sift import sift_words


def measure(model: DiffusersModel, encoder: TextEncoder, name: str, seed: int) -> dict[str, Any]:
    """One row: the words found for a concept's pictures, and how long it took."""
    kind: Kind = "style" if name in load_demo_world()["styles"] else "object"
    shown = attack_pictures(name)[:COUNT] if name in CONTROLS else task_pictures(name)
    row: dict[str, Any] = {"concept": name, "seed": seed}
    started = time.monotonic()
    try:
        found = find_words(model, encoder, shown, kind, seed, SilentMonitor())
        words = [word.word for word in found.words]
        row |= {"rank": words.index(name) + 1 if name in words else None, **found.as_dict()}
    except BadConcept as error:
        row["refused"] = str(error)
    row["seconds"] = round(time.monotonic() - started, 1)
    if kind != "style" and name not in CONTROLS:
        known = [word for word in nouns() if encoder.knows(word)]
        latents = encode_pictures(model, shown)
        generator = torch.Generator().manual_seed(seed)
        sifted, _ = sift_words(model, encoder, latents, known, generator, SilentMonitor())
        row["sifted_rank"] = sifted.index(name) + 1
    return row


def main(words: Sequence[str]) -> None:
    """Print a line for each concept and seed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench trial found_words",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="write all rows there too")
    chosen = parser.parse_args(words)
    model, _ = load_model("demo")
    encoder = build_encoder(model)
    rows = []
    for name in (*TUNING, *CONTROLS):
        for seed in SEEDS:
            row = measure(model, encoder, name, seed)
            rows.append(row)
            print(json.dumps(row, ensure_ascii=False), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
