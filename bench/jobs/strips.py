"""A strip: the first pictures of every cell of a job, side by side in one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from torch import Tensor

from bench.jobs.plan import Job
from bench.protocol.layout import Layout
from unlearn_core.files.pictures import to_image
from unlearn_core.reporting.sheets import GAP, PAPER, TILE


def save_strip(
    out: Path, job: Job, layout: Layout, samples: Mapping[str, Tensor]
) -> list[list[str]]:
    """Write a job's strip; (cell, prompt) of each picture in it, for the sheet's header."""
    tiles = [
        to_image(picture).resize((TILE, TILE), Image.Resampling.LANCZOS)
        for pictures in samples.values()
        for picture in pictures
    ]
    strip = Image.new("RGB", (len(tiles) * (TILE + GAP), TILE), PAPER)
    for column, tile in enumerate(tiles):
        strip.paste(tile, (column * (TILE + GAP), 0))
    path = strip_path(out, job.concept, job.method)
    path.parent.mkdir(parents=True, exist_ok=True)
    strip.save(path, optimize=True)
    return [
        [name, prompt]
        for name, pictures in samples.items()
        for prompt in layout.cells[name].prompts[: len(pictures)]
    ]


def strip_path(out: Path, concept: str, method: str) -> Path:
    """Where a strip lies."""
    return out / "strips" / concept.replace(" ", "-") / f"{method.replace(':', '-')}.png"
