"""What it costs that a model reads its own pictures, beside what it costs to draw them.

    python -m bench trial self_judge_cost [--model demo] [--pictures 16] [--rounds 3]

Drawing and reading take turns in one process; the table has the seconds of a picture and their
ratio. The model "full-size" is SD2 with random weights at 512 pixels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from statistics import median

import torch

from bench.cost.random_model import Host, RandomModel
from bench.protocol.cost import MemoryGauge
from bench.protocol.setup import open_model
from unlearn_core.measuring.drawing import draw_encoded, encode_prompt
from unlearn_core.measuring.self_judge import SelfJudge
from unlearn_core.models.lent_model import LentModel, build_encoder
from unlearn_core.words.prompts import whole_prompts

WORDS = ("dog", "cat", "fox", "wolf", "pig", "car")
FULL_SIZE = "full-size"


def since(start: float, model: LentModel) -> float:
    """Seconds, when all that was asked of a GPU is done."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - start


def main(words: Sequence[str]) -> None:
    """Print a line for drawing and one for reading."""
    parser = argparse.ArgumentParser(
        prog="python -m bench trial self_judge_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="demo", help=f"a model, or {FULL_SIZE}")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(words)
    is_random = chosen.model == FULL_SIZE
    model: LentModel = RandomModel(Host()) if is_random else open_model(chosen.model)[0].model
    encoder = build_encoder(model)
    with torch.no_grad():
        ids = [whole_prompts([f"a photo of a {word}"]).token_ids for word in WORDS]
        both = [encode_prompt(encoder, row) for row in ids]
    texts = {word: text[:1] for word, text in zip(WORDS, both, strict=True)}
    judge = SelfJudge(model, texts, both[0][1:], WORDS[:-1], 0)
    gauge = MemoryGauge(model.device)
    drawn: list[float] = []
    read: list[float] = []
    most_drawn = 0
    try:
        for turn in range(chosen.rounds):
            start = time.perf_counter()
            pictures = draw_encoded(model, both[0], chosen.pictures, turn)
            drawn.append(since(start, model))
            most_drawn = gauge.look()
            start = time.perf_counter()
            judge.read(pictures, "car")
            read.append(since(start, model))
        most = max(most_drawn, gauge.look())
    finally:
        gauge.close()
    for name, found in (("drawing", drawn), ("reading", read)):
        print(f"{name}: {median(found) / chosen.pictures:.3f} s a picture")
    ratios = [b / a for a, b in zip(drawn, read, strict=True)]
    print(f"reading / drawing: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"held at most: drawing {most_drawn / 1e9:.2f} GB, both {most / 1e9:.2f} GB")
