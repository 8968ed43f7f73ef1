"""Contact sheets: what each method draws for the same prompts from the same noise.

A job of the first seed leaves one strip, OUT/strips/CONCEPT/METHOD.png: the first two pictures of
every cell side by side. A sheet puts the strips of all methods under each other.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bench.jobs.strips import strip_path
from unlearn_core.reporting.sheets import FAINT, GAP, INK, PAPER, TILE

LABEL, HEADER = 150, 76
LETTERS = 17
"""Letters in a line over a picture."""


def contact_sheet(
    out: Path, concept: str, methods: Sequence[str], header: Sequence[Sequence[str]]
) -> Image.Image | None:
    """Methods from top to bottom, prompts from left to right; None if no strip is there."""
    paths = {method: strip_path(out, concept, method) for method in methods}
    paths = {method: path for method, path in paths.items() if path.exists()}
    if not paths:
        return None
    strips = {method: Image.open(path).convert("RGB") for method, path in paths.items()}
    width = max(strip.width for strip in strips.values())
    sheet = Image.new("RGB", (LABEL + width, HEADER + len(strips) * (TILE + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, (cell, prompt) in enumerate(header):
        left = LABEL + column * (TILE + GAP)
        if column == 0 or header[column - 1][0] != cell:
            pen.text((left, 4), cell.replace(":", ": "), INK, ImageFont.load_default(13))
        lines = textwrap.wrap(prompt, LETTERS)[:4]
        pen.text((left, 22), "\n".join(lines), FAINT, ImageFont.load_default(10))
    for row, (method, strip) in enumerate(strips.items()):
        top = HEADER + row * (TILE + GAP)
        pen.text((6, top + TILE // 2 - 8), method, INK, ImageFont.load_default(14))
        sheet.paste(strip, (LABEL, top))
    return sheet
