"""Eight pictures of each attacked concept that no eraser sees; made anew with

    python -m bench.attacks.pictures FOLDER

FOLDER is where `bench.emoji_canvas` keeps its drawings. The drawing of each style is the one that
the generator learned, as in demo/pictures; placements, backgrounds and seed are others.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from bench.emoji_canvas.drawings import load_drawings
from bench.emoji_canvas.pictures import EDGE, GENERATOR_SETS, Painter, Scene
from bench.emoji_canvas.world import BACKGROUNDS, OBJECTS, STYLES
from bench.emoji_canvas.world import CONTROLS as UNTAUGHT
from bench.protocol.splits import ATTACKED, CONTROLS
from unlearn_core.pictures import read_picture

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
    index = [thing.name for thing in (*OBJECTS, *UNTAUGHT)].index(concept)
    light = [name for name in BACKGROUNDS if name not in ("black", "red")]
    styles = [list(STYLES)[i % len(STYLES)] for i in range(COUNT)]
    pixels = []
    for style, background in zip(styles, rng.permutation(light)[:COUNT], strict=True):
        scene = Scene((index,), style, str(background))
        pixels.append(painter.paint(scene, (GENERATOR_SETS[style],), rng))
    return Image.fromarray(np.concatenate(pixels, axis=1))


def main() -> None:
    """Paint every concept's strip."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    painter = Painter(load_drawings(parser.parse_args().folder))
    FOLDER.mkdir(exist_ok=True)
    for concept in SHOWN:
        paint_strip(painter, concept).save(strip_file(concept), optimize=True)
        print(strip_file(concept), strip_file(concept).stat().st_size)


if __name__ == "__main__":
    main()
