"""Sets of rendered pictures, made once by several processes and kept as arrays."""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.emoji_canvas.drawings import load_drawings
from bench.emoji_canvas.pictures import (
    EDGE,
    GENERATOR_SETS,
    JUDGE_SETS,
    UNSEEN_SETS,
    Painter,
    Scene,
    random_scene,
)
from bench.emoji_canvas.world import CONTROLS, OBJECTS

PAIRS = 0.25
"""Share of pictures with two objects."""
_CHUNK = 500


@dataclass(frozen=True)
class Renders:
    """Pictures and what they show."""

    pixels: NDArray[np.uint8]
    """(N, 64, 64, 3) RGB."""
    scenes: list[Scene]


@dataclass(frozen=True)
class Split:
    """Which pictures a set holds."""

    name: str
    size: int
    seed: int
    sets: dict[str, tuple[str, ...]]
    """Style -> the emoji sets whose drawings are used."""
    controls: bool = False
    """Whether the controls appear."""


def _one_each(sets: dict[str, str]) -> dict[str, tuple[str, ...]]:
    return {style: (name,) for style, name in sets.items()}


def splits(scale: float) -> dict[str, Split]:
    """All picture sets; `scale` shrinks them for a smoke run."""

    def size(full: int) -> int:
        return max(_CHUNK, int(full * scale) // _CHUNK * _CHUNK)

    seen = _one_each(GENERATOR_SETS)
    every = [
        Split("generator", size(40_000), 1_000, seen),
        Split("generator-test", size(1_000), 2_000, seen),
        Split("judges", size(30_000), 3_000, JUDGE_SETS, controls=True),
        Split("judges-test", size(2_000), 4_000, JUDGE_SETS, controls=True),
        Split("unseen-test", size(2_000), 5_000, _one_each(UNSEEN_SETS), controls=True),
    ]
    return {split.name: split for split in every}


def _render_chunk(split: Split, chunk: int, folder: Path) -> tuple[NDArray[np.uint8], list[Scene]]:
    painter = Painter(load_drawings(folder))
    rng = np.random.default_rng([split.seed, chunk])
    count = len(OBJECTS + CONTROLS) if split.controls else len(OBJECTS)
    scenes: list[Scene] = []
    while len(scenes) < _CHUNK:
        scene = random_scene(rng, count, PAIRS)
        if painter.can_paint(scene, split.sets[scene.style]):
            scenes.append(scene)
    pixels = np.empty((_CHUNK, EDGE, EDGE, 3), np.uint8)
    for place, scene in enumerate(scenes):
        pixels[place] = painter.paint(scene, split.sets[scene.style], rng)
    return pixels, scenes


def load_renders(split: Split, folder: Path) -> Renders:
    """The pictures of a split, rendered into `folder` on the first call."""
    pixels_file = folder / f"{split.name}-{split.size}.npy"
    scenes_file = pixels_file.with_suffix(".json")
    if scenes_file.exists():
        scenes = [
            Scene(tuple(o), style, bg)
            for o, style, bg in json.loads(scenes_file.read_text("utf-8"))
        ]
        return Renders(np.load(pixels_file), scenes)
    load_drawings(folder)
    chunks = range(split.size // _CHUNK)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        done = list(pool.map(_render_chunk, [split] * len(chunks), chunks, [folder] * len(chunks)))
    renders = Renders(
        np.concatenate([pixels for pixels, _ in done]), [s for _, scenes in done for s in scenes]
    )
    np.save(pixels_file, renders.pixels)
    listed = [(scene.objects, scene.style, scene.background) for scene in renders.scenes]
    scenes_file.write_text(json.dumps(listed), encoding="utf-8")
    return renders
