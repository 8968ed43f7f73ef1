"""Pictures of the world: drawings placed on a background and rendered in a style."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from bench.emoji_canvas.drawings import SIZE, lacks
from bench.emoji_canvas.world import BACKGROUNDS, CONTROLS, LIGHT_BACKGROUNDS, OBJECTS, STYLES

EDGE = 64
"""Edge of a picture in pixels."""
_CANVAS = 2 * EDGE
_BACKGROUND_NOISE = 7.0
_DARK = 60
"""Mean value below which a background needs light lines."""
_INK = np.array([45, 45, 52], np.float32)
_PAPER = np.array([252, 250, 244], np.float32)

GENERATOR_SETS = {
    "cartoon": "noto",
    "flat": "twemoji",
    "3d": "fluent-3d",
    "sketch": "twemoji",
    "neon": "fluent-flat",
}
"""The one set that the generator sees in each style."""
JUDGE_SETS = {
    "cartoon": ("noto", "noto-v1", "twemoji"),
    "flat": ("twemoji", "fluent-flat"),
    "3d": ("fluent-3d",),
    "sketch": ("twemoji", "noto", "fluent-flat"),
    "neon": ("fluent-flat", "noto", "twemoji"),
}
"""The sets that the judges are trained on."""
UNSEEN_SETS = {
    "cartoon": "emojione",
    "flat": "emojione",
    "3d": "fluent",
    "sketch": "noto-v1",
    "neon": "emojione",
}
"""Sets that neither the generator nor the judges see in that style."""


@dataclass(frozen=True)
class Scene:
    """What a picture shows."""

    objects: tuple[int, ...]
    """One or two indices into the world's objects and controls, from left to right."""
    style: str
    background: str


def random_scene(rng: np.random.Generator, count: int, pairs: float) -> Scene:
    """A scene of the first `count` objects; two of them with probability `pairs`."""
    shown = rng.choice(count, 2 if rng.random() < pairs else 1, replace=False)
    style = list(STYLES)[rng.integers(len(STYLES))]
    background = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    return Scene(tuple(int(index) for index in shown), style, background)


class Painter:
    """Renders scenes from a table of drawings."""

    def __init__(self, drawings: Mapping[str, NDArray[np.uint8]]) -> None:
        """`drawings` as `load_drawings` returns them."""
        self.drawings = drawings

    def can_paint(self, scene: Scene, sets: Sequence[str]) -> bool:
        """Whether each object of the scene is drawn by one of `sets`."""
        return all(self._having(index, sets) for index in scene.objects)

    def paint(
        self, scene: Scene, sets: Sequence[str], rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """(EDGE, EDGE, 3) RGB; each object's drawing comes from one of `sets` that has it."""
        layer = np.zeros((_CANVAS, _CANVAS, 4), np.float32)
        for index, (size, x, y) in zip(
            scene.objects, _places(len(scene.objects), rng), strict=True
        ):
            having = self._having(index, sets)
            drawing = self.drawings[having[rng.integers(len(having))]][index]
            placed = _place(drawing, size * _CANVAS, x * _CANVAS, y * _CANVAS, rng)
            layer = placed + layer * (1 - placed[..., 3:] / 255)
        background = np.array(BACKGROUNDS[scene.background], np.float32)
        background = np.clip(background + rng.normal(0, _BACKGROUND_NOISE, 3), 0, 255)
        picture = _STYLE_FILTERS[scene.style](layer, background.astype(np.float32))
        image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
        return np.asarray(image.resize((EDGE, EDGE), Image.Resampling.BOX))

    def strip(self, concept: str, styles: Sequence[str], rng: np.random.Generator) -> Image.Image:
        """One object in each of `styles` side by side, as the generator learns them."""
        index = [thing.name for thing in (*OBJECTS, *CONTROLS)].index(concept)
        backgrounds = rng.permutation(LIGHT_BACKGROUNDS)[: len(styles)]
        scenes = [
            Scene((index,), str(style), str(background))
            for style, background in zip(styles, backgrounds, strict=True)
        ]
        pixels = [self.paint(scene, (GENERATOR_SETS[scene.style],), rng) for scene in scenes]
        return Image.fromarray(np.concatenate(pixels, axis=1))

    def _having(self, index: int, sets: Sequence[str]) -> list[str]:
        return [name for name in sets if not lacks(self.drawings[name][index])]


def _places(count: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Size and centre of each object, as shares of the canvas."""
    if count == 1:
        return [(rng.uniform(0.64, 0.86), *(0.5 + rng.uniform(-0.06, 0.06, 2)))]
    return [
        (rng.uniform(0.43, 0.5), x + rng.uniform(-0.02, 0.02), 0.5 + rng.uniform(-0.1, 0.1))
        for x in (0.26, 0.74)
    ]


def _place(
    drawing: NDArray[np.uint8], size: float, x: float, y: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The drawing on the canvas, slightly turned: (_CANVAS, _CANVAS, 4) premultiplied RGBA."""
    pixels = drawing.astype(np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    image = Image.fromarray(pixels.round().astype(np.uint8))
    angle, scale = math.radians(rng.uniform(-12, 12)), SIZE / size
    if scale > 1.5:
        image = image.filter(ImageFilter.BoxBlur((scale - 1) / 2 * 0.8))
    cos, sin, middle = math.cos(angle) * scale, math.sin(angle) * scale, SIZE / 2
    matrix = (cos, sin, middle - cos * x - sin * y, -sin, cos, middle + sin * x - cos * y)
    placed = image.transform(
        (_CANVAS, _CANVAS), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.asarray(placed).astype(np.float32)


def _alpha(layer: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(layer[..., 3].astype(np.uint8))


def _share(image: Image.Image) -> NDArray[np.float32]:
    return (np.asarray(image).astype(np.float32) / 255)[..., None]


def _over(layer: NDArray[np.float32], under: NDArray[np.float32]) -> NDArray[np.float32]:
    return layer[..., :3] + (1 - layer[..., 3:] / 255) * under


def _edges(layer: NDArray[np.float32]) -> NDArray[np.float32]:
    """Strength of the lines of the objects over white, 0 to 1: (_CANVAS, _CANVAS)."""
    strength = np.zeros(layer.shape[:2], np.float32)
    for plane in (_over(layer, np.float32(255)).mean(-1), layer[..., 3]):
        down, right = np.gradient(plane)
        strength += 1.8 * np.hypot(down, right)
    return np.clip(strength / 150, 0, 1)


def _thicker(strength: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    image = Image.fromarray((strength * 255).astype(np.uint8))
    return _share(image.filter(ImageFilter.MaxFilter(width)))


def _cartoon(layer: NDArray[np.float32], background: NDArray[np.float32]) -> NDArray[np.float32]:
    """A bold outline around the object, dark, or light where the background is dark."""
    grown = _alpha(layer).filter(ImageFilter.MaxFilter(9)).filter(ImageFilter.GaussianBlur(0.7))
    outline = _share(grown)
    ink = np.float32(15 if background.mean() > _DARK else 250)
    return _over(layer, (1 - outline) * background + outline * ink)


def _flat(layer: NDArray[np.float32], background: NDArray[np.float32]) -> NDArray[np.float32]:
    return _over(layer, background)


def _3d(layer: NDArray[np.float32], background: NDArray[np.float32]) -> NDArray[np.float32]:
    """A soft shadow that falls to the lower right."""
    shadow = _alpha(layer).filter(ImageFilter.GaussianBlur(5))
    shadow = shadow.transform(shadow.size, Image.Transform.AFFINE, (1, 0, -7, 0, 1, -9))
    return _over(layer, background * (1 - 0.6 * _share(shadow)))


def _sketch(layer: NDArray[np.float32], background: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pencil lines on paper, lightly shaded where the drawing is dark."""
    alpha = layer[..., 3:] / 255
    dark = 1 - _over(layer, np.float32(255)).mean(-1, keepdims=True) / 255
    filled = _PAPER * (1 - 0.3 * dark) + 65 * 0.3 * dark
    picture = background * (1 - alpha) + filled * alpha
    line = _thicker(_edges(layer), 3)
    ink = _INK if background.mean() > _DARK else _PAPER
    outside = (1 - alpha) * ink + alpha * _INK
    return picture * (1 - line) + outside * line


def _neon(layer: NDArray[np.float32], background: NDArray[np.float32]) -> NDArray[np.float32]:
    """Glowing tubes in the drawing's colours on the darkened background."""
    soft = Image.fromarray(layer.astype(np.uint8)).filter(ImageFilter.GaussianBlur(8))
    nearby = np.asarray(soft).astype(np.float32)
    colour = nearby[..., :3] * 255 / np.maximum(nearby[..., 3:], 1)
    low, high = colour.min(-1, keepdims=True), colour.max(-1, keepdims=True)
    vivid = np.clip((colour - 0.75 * low) / np.maximum(high - 0.75 * low, 1), 0, 1)
    tube = _thicker(_edges(layer), 3)
    light = Image.fromarray((vivid * tube * 255).astype(np.uint8))
    glow = np.asarray(light.filter(ImageFilter.GaussianBlur(5))).astype(np.float32)
    night = 0.22 * background * (1 - 0.5 * layer[..., 3:] / 255)
    return night + 1.3 * glow + tube * (0.75 * vivid * 255 + 60)


_STYLE_FILTERS = {
    "cartoon": _cartoon,
    "flat": _flat,
    "3d": _3d,
    "sketch": _sketch,
    "neon": _neon,
}
