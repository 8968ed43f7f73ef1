"""The five pictures from which a method may learn what to erase; the attacks have others.

    python -m bench.protocol.task_pictures FOLDER

paints those that demo/pictures lacks, one strip a concept, in the way of `emoji_canvas.export`:
an object in each of the five styles. FOLDER is where `bench.emoji_canvas` keeps its drawings.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.emoji_canvas.drawings import load_drawings
from bench.emoji_canvas.pictures import EDGE, GENERATOR_SETS, Painter, Scene
from bench.emoji_canvas.world import BACKGROUNDS, OBJECTS, STYLES
from bench.protocol.cells import GUIDANCE, LARGE_BATCH
from bench.protocol.erased import Erased
from bench.protocol.splits import TEST, TUNING
from unlearn_core.demo_model import demo_folder
from unlearn_core.pictures import read_picture, read_pictures
from unlearn_core.prompts import Name
from unlearn_core.sampling import draw_pictures, paired_noise
from unlearn_core.tokenizer import token_ids

COUNT = 5
SEED = 6_500
"""Between the seeds of demo/pictures (6000) and of the attacks' pictures (8000)."""
FOLDER = Path(__file__).parent / "task_pictures"
DRAWN_SEED, DRAWN_STEPS = 6_600, 25

Pictures = Callable[[str], tuple[Tensor, ...]]
"""A concept's name -> its pictures, each (3, h, w) float32 in [-1, 1]."""


def task_pictures(concept: str) -> tuple[Tensor, ...]:
    """Five pictures of a concept of the demo world. Raises BadFile."""
    name = concept.replace(" ", "-")
    if (demo_folder() / "pictures" / name).is_dir():
        return read_pictures(demo_folder() / "pictures" / name)
    return read_picture(FOLDER / f"{name}.png").split(EDGE, dim=2)


def drawn_pictures(base: Erased, styles: tuple[str, ...], seed: int, count: int) -> Pictures:
    """Pictures that another model draws of a concept itself: it has no demo world to paint."""

    @torch.no_grad()
    def draw(concept: str) -> tuple[Tensor, ...]:
        if concept in styles:
            prompts = [f"a picture of a house, {concept} style"] * count
        else:
            prompts = [f"a photo of {Name.of(concept).article}{concept}"] * count
        text = base.encoder.encode(torch.cat([token_ids(prompt) for prompt in prompts]))
        empty = base.encoder.encode(token_ids(""))
        size = base.model.native_size
        noise = torch.cat([paired_noise(seed, i, size, size) for i in range(count)])
        parts = zip(text.split(LARGE_BATCH), noise.split(LARGE_BATCH), strict=True)
        drawn = [
            draw_pictures(base.model, part, empty, own, DRAWN_STEPS, GUIDANCE)
            for part, own in parts
        ]
        return tuple(torch.cat(drawn))

    return draw


def paint_strip(painter: Painter, concept: str) -> Image.Image:
    """Five pictures in a row, (COUNT * EDGE) x EDGE, one in each style."""
    rng = np.random.default_rng([SEED, zlib.crc32(concept.encode())])
    index = [thing.name for thing in OBJECTS].index(concept)
    light = [name for name in BACKGROUNDS if name not in ("black", "red")]
    shown = zip(rng.permutation(list(STYLES)), rng.permutation(light)[:COUNT], strict=True)
    pixels = [
        painter.paint(
            Scene((index,), str(style), str(background)), (GENERATOR_SETS[str(style)],), rng
        )
        for style, background in shown
    ]
    return Image.fromarray(np.concatenate(pixels, axis=1))


def main() -> None:
    """Paint the strip of every concept that demo/pictures lacks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    painter = Painter(load_drawings(parser.parse_args().folder))
    FOLDER.mkdir(exist_ok=True)
    for concept in (*TEST, *TUNING):
        name = concept.replace(" ", "-")
        if not (demo_folder() / "pictures" / name).is_dir():
            paint_strip(painter, concept).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
