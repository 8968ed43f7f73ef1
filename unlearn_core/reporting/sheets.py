"""Pictures for people: contact sheet, strength curve, loss curve. Drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..files.pictures import to_image
from ..measuring.evaluation import Evaluation, Group
from ..measuring.strength_curve import CurvePoint
from ..measuring.subjects import OWN_ROLES

TILE = 96
"""Edge of one picture on a sheet, in pixels."""
GAP = 4
LABEL = 190
HEADER = 26
Ink = tuple[int, int, int]
INK, FAINT, PAPER = (30, 30, 34), (140, 140, 150), (255, 255, 255)
FORGOTTEN_INK, KEPT_INK = (200, 60, 50), (40, 110, 190)
HIDDEN_KINDS = ("person", "unsafe")
"""Kinds whose pictures before forgetting are blurred beyond recognition in every file."""


def contact_sheet(evaluation: Evaluation) -> Image.Image:
    """A row for each prompt: before on the left, after on the right, same noise."""
    groups = evaluation.groups
    columns = max(len(group.before) for group in groups)
    half = columns * (TILE + GAP)
    sheet = _paper(LABEL + 2 * half + 4 * GAP, HEADER + len(groups) * (TILE + GAP))
    pen = ImageDraw.Draw(sheet)
    pen.text((LABEL, 6), "before", INK, _font(15))
    pen.text((LABEL + half + 3 * GAP, 6), "after", INK, _font(15))
    hide = evaluation.forgotten.concept.kind in HIDDEN_KINDS
    for row, group in enumerate(groups):
        top = HEADER + row * (TILE + GAP)
        _label(pen, group, top)
        hidden = hide and group.role in OWN_ROLES
        _paste_row(sheet, group.before, LABEL, top, hidden)
        _paste_row(sheet, group.after, LABEL + half + 3 * GAP, top, False)
    return sheet


def strength_sheet(evaluation: Evaluation) -> Image.Image:
    """For each strength pictures of the concept and a neighbour, and the two curves below."""
    curve = evaluation.curve
    rows = len(curve[0].concept)
    width = LABEL + len(curve) * (TILE + GAP)
    graph = 180
    sheet = _paper(width, HEADER + 2 * rows * (TILE + GAP) + graph + 30)
    pen = ImageDraw.Draw(sheet)
    concept = evaluation.forgotten.concept
    neighbour = next((g.word for g in evaluation.groups if g.role == "neighbour"), "")
    hide = concept.kind in HIDDEN_KINDS
    for column, point in enumerate(curve):
        left = LABEL + column * (TILE + GAP)
        best = point.strength == evaluation.recommended_strength
        mark = f"{point.strength:g}" + (" (best)" if best else "")
        pen.text((left + 4, 6), mark, FORGOTTEN_INK if best else INK, _font(15))
        for part, pictures in enumerate((point.concept, point.neighbour)):
            hidden = hide and part == 0 and point.strength < 1
            for row, picture in enumerate(pictures):
                top = HEADER + (part * rows + row) * (TILE + GAP)
                sheet.paste(_tile(picture, hidden), (left, top))
    for part, word in enumerate((concept.name, neighbour)):
        top = HEADER + part * rows * (TILE + GAP)
        _write(pen, (6, top + TILE // 2 - 8), word, INK, 15)
    top = HEADER + 2 * rows * (TILE + GAP) + 10
    _curves(pen, curve, LABEL, top, width - LABEL - GAP, graph - 20)
    pen.text((6, top + 10), "forgotten", FORGOTTEN_INK, _font(14))
    pen.text((6, top + 34), "kept", KEPT_INK, _font(14))
    pen.text((6, top + 58), "by LoRA strength", FAINT, _font(13))
    return sheet


def loss_curve(losses: Sequence[float], width: int = 640, height: int = 200) -> Image.Image:
    """The loss of every step, left to right."""
    picture = _paper(width, height)
    pen = ImageDraw.Draw(picture)
    if len(losses) < 2:
        pen.text((10, 10), "no steps", FAINT, _font(14))
        return picture
    low, high = min(losses), max(losses)
    span = (high - low) or 1.0
    points = [
        (
            60 + i * (width - 70) / (len(losses) - 1),
            10 + (high - loss) / span * (height - 40),
        )
        for i, loss in enumerate(losses)
    ]
    pen.line(points, fill=KEPT_INK, width=2)
    pen.text((6, 4), f"{high:.3g}", FAINT, _font(12))
    pen.text((6, height - 44), f"{low:.3g}", FAINT, _font(12))
    pen.text((60, height - 20), f"loss over {len(losses)} steps", FAINT, _font(12))
    return picture


def _curves(
    pen: ImageDraw.ImageDraw,
    curve: Sequence[CurvePoint],
    left: float,
    top: float,
    width: float,
    height: float,
) -> None:
    low, high = -0.5, 1.05

    def place(column: int, value: float) -> tuple[float, float]:
        x = left + (column + 0.5) * width / len(curve)
        y = top + (high - min(high, max(low, value))) / (high - low) * height
        return x, y

    for value in (0.0, 0.5, 1.0):
        y = place(0, value)[1]
        pen.line([(left, y), (left + width, y)], fill=(225, 225, 230))
        pen.text((left - 30, y - 8), f"{value:g}", FAINT, _font(12))
    for ink, values in (
        (FORGOTTEN_INK, [point.forgotten for point in curve]),
        (KEPT_INK, [point.kept for point in curve]),
    ):
        points = [place(i, value) for i, value in enumerate(values)]
        pen.line(points, fill=ink, width=3)
        for x, y in points:
            pen.ellipse([x - 3, y - 3, x + 3, y + 3], fill=ink)


def _label(pen: ImageDraw.ImageDraw, group: Group, top: int) -> None:
    ink = FORGOTTEN_INK if group.role in OWN_ROLES else INK
    _write(pen, (6, top + 14), group.word, ink, 16)
    pen.text((6, top + 36), group.role, FAINT, _font(13))
    if group.judged:
        seen = f"seen in {group.seen_before} > {group.seen_after} of {group.judged}"
        pen.text((6, top + 54), seen, ink, _font(13))


def _paste_row(sheet: Image.Image, pictures: Tensor, left: int, top: int, hidden: bool) -> None:
    for column, picture in enumerate(pictures):
        sheet.paste(_tile(picture, hidden), (left + column * (TILE + GAP), top))


def _tile(picture: Tensor, hidden: bool) -> Image.Image:
    image = to_image(picture)
    if hidden:
        image = image.resize((4, 4), Image.Resampling.BOX)
    return image.resize((TILE, TILE), Image.Resampling.LANCZOS)


def _paper(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), PAPER)


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], word: str, ink: Ink, size: int
) -> None:
    short = word if len(word) <= 20 else word[:19] + "."
    try:
        pen.text(place, short, ink, _font(size))
    except UnicodeEncodeError:  # Pillow's built-in bitmap font knows Latin letters only
        pen.text(place, short.encode("ascii", "replace").decode(), ink, _font(size))


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()
