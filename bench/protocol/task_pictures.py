"""The five pictures from which a method may learn what to erase; the attacks have others.

    python -m bench world strips FOLDER

paints those that demo/pictures lacks, one strip a concept: an object in each of the five styles.
FOLDER is where `python -m bench world rebuild` keeps its drawings.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.emoji_canvas.pictures import EDGE, Painter
from bench.emoji_canvas.world import STYLES
from bench.protocol.cells import draw_prompts
from bench.protocol.erased import Erased
from bench.protocol.splits import TEST, TUNING
from unlearn_core.files.pictures import read_picture, read_pictures
from unlearn_core.loaders.demo_model import demo_folder
from unlearn_core.text.tokenizer import token_ids
from unlearn_core.words.prompts import Name

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

    def draw(concept: str) -> tuple[Tensor, ...]:
        if concept in styles:
            prompts = [f"a picture of a house, {concept} style"] * count
        else:
            prompts = [f"a photo of {Name.of(concept).article}{concept}"] * count
        ids = torch.cat([token_ids(prompt) for prompt in prompts])
        return tuple(draw_prompts(base.model, base.encoder, ids, seed, steps=DRAWN_STEPS))

    return draw


def paint_strip(painter: Painter, concept: str) -> Image.Image:
    """Five pictures in a row, (COUNT * EDGE) x EDGE, one in each style."""
    rng = np.random.default_rng([SEED, zlib.crc32(concept.encode())])
    return painter.strip(concept, rng.permutation(list(STYLES)), rng)


def paint_strips(painter: Painter) -> None:
    """Into FOLDER, of every concept that demo/pictures lacks."""
    FOLDER.mkdir(exist_ok=True)
    for concept in (*TEST, *TUNING):
        name = concept.replace(" ", "-")
        if not (demo_folder() / "pictures" / name).is_dir():
            paint_strip(painter, concept).save(FOLDER / f"{name}.png", optimize=True)
