"""Eight pictures of each attacked concept that no eraser sees; made anew with

    python -m bench world strips FOLDER

FOLDER is where `python -m bench world rebuild` keeps its drawings. The drawing of each style is the
one that the generator learned, as in demo/pictures; placements, backgrounds and seed are others.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from bench.emoji_canvas.pictures import EDGE, Painter
from bench.emoji_canvas.world import STYLES
from bench.protocol.splits import ATTACKED, CONTROLS
from unlearn_core.files.pictures import read_picture

COUNT = 8
SHOWN = (*ATTACKED, *CONTROLS, "dog")
"""The last one is for tuning."""
SEED = 8_000
"""emoji_canvas uses 1000 to 7000."""
FOLDER = Path(__file__).parent / "pictures"


def strip_file(concept: str) -> Path:
    """Where a concept's eight pictures lie side by side."""
    return FOLDER / f"{concept.replace(' ', '-')}.png"


def attack_pictures(concept: str) -> tuple[Tensor, ...]:
    """The concept's pictures, each (3, 64, 64) float32 in [-1, 1]. Raises BadFile."""
    return read_picture(strip_file(concept)).split(EDGE, dim=2)


def paint_strip(painter: Painter, concept: str) -> Image.Image:
    """Eight pictures in a row, (COUNT * EDGE) x EDGE; the styles take turns."""
    rng = np.random.default_rng([SEED, zlib.crc32(concept.encode())])
    styles = [list(STYLES)[i % len(STYLES)] for i in range(COUNT)]
    return painter.strip(concept, styles, rng)


def paint_strips(painter: Painter) -> None:
    """Into FOLDER, of every concept that is SHOWN."""
    FOLDER.mkdir(exist_ok=True)
    for concept in SHOWN:
        paint_strip(painter, concept).save(strip_file(concept), optimize=True)
