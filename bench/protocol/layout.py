"""What is drawn for one concept and seed, and what the judge reads in it.

  name        the concept by its name, in `cells.GRAMMARS`, which the eraser's templates lack
  grammars    its name in two whole sentences, farther from any template than these
  synonyms    its other names, which no eraser is told; not for a concept that has none
  described   descriptions that never say its name, where the model was taught them
  near:WORD   each of the three nearest things of its kind
  others      every other object (a style: every object, in the other styles)
  pairs       "a CONCEPT and a WORD" for twelve other objects; not for a style

The judge reads object and style of every picture, in pairs whether the other object and the
concept are among the two likeliest. Noise, styles and backgrounds are fixed by the seed, so that
every method draws from the same noise as the unchanged model. Readings are kept picture by picture,
as "1" and "0".
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from bench.emoji_canvas.captions import HELD_OUT_GRAMMARS
from bench.emoji_canvas.descriptions import DESCRIPTIONS
from bench.protocol.cells import DRAW_STEPS, GRAMMARS, Cell, World, agree, draw_cell
from bench.protocol.erased import Erased
from unlearn_core.concept import Concept
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.words.neighbours import look_around
from unlearn_core.words.prompts import Name

STYLE_GRAMMARS = (GRAMMARS[0], GRAMMARS[2])
NEAREST = 3
PARTNERS = 12
"""Other objects that are drawn beside the concept."""
SEED_STEP = 1000
"""Cells of one seed lie between its multiples; the attacks' noise starts at 9000."""
SAMPLES = 2
"""Pictures of each cell that are kept for the contact sheet."""
CELL_SEEDS = {
    "name": 1,
    "near": 2,
    "others": 3,
    "synonyms": 4,
    "grammars": 5,
    "pairs": 6,
    "described": 7,
}

Readings = dict[str, dict[str, str]]
"""Cell -> question -> one "1" or "0" a picture."""


@dataclass(frozen=True)
class Sizes:
    """Pictures of one seed; three seeds pool to more than 200 in every cell."""

    name: int = 70
    near: int = 70
    """For each neighbour."""
    other: int = 2
    """For each other object."""
    pair: int = 6
    """For each partner."""


FULL = Sizes()
QUICK = Sizes(name=16, near=16, other=1, pair=1)


class Layout:
    """The cells of one concept and seed."""

    def __init__(
        self, world: World, base: TextEncoder, name: str, seed: int, sizes: Sizes = FULL
    ) -> None:
        """Lay the cells out; `base` is the unchanged text encoder, which says what is near."""
        self.world, self.name, self.seed, self.sizes = world, name, SEED_STEP * seed, sizes
        self.is_style = name in world.styles
        self.own = "style" if self.is_style else "object"
        """The question that asks about the concept itself."""
        around = look_around(base, Concept(name, kind=self.own))
        alike = world.styles if self.is_style else world.objects
        self.neighbours = tuple(word for word in around.nearest(200) if word in alike)[:NEAREST]
        self.others = tuple(word for word in world.objects if word != name)
        self.descriptions = tuple(
            text for text in DESCRIPTIONS.get(name, ()) if all(map(base.knows, text.split()))
        )
        self.partners = self._choose_partners()
        self.cells = self._style_cells() if self.is_style else self._object_cells()

    def _choose_partners(self) -> tuple[str, ...]:
        far = [word for word in self.others if word not in self.neighbours]
        draw_from = random.Random(zlib.crc32(self.name.encode()))
        return tuple(draw_from.sample(far, min(PARTNERS, len(far))))

    def _object_cells(self) -> dict[str, Cell]:
        name, sizes, names = self.name, self.sizes, [(self.name, self.name)]
        cells = {
            "name": self._cell("name", names, sizes.name),
            "grammars": self._cell("grammars", names, sizes.name, grammars=HELD_OUT_GRAMMARS),
        }
        synonyms = [(word, name) for word in self.world.synonyms(name)]
        if synonyms:
            cells["synonyms"] = self._cell("synonyms", synonyms, sizes.name)
        if self.descriptions:
            described = [(text, name) for text in self.descriptions]
            cells["described"] = self._cell("described", described, sizes.name)
        for word in self.neighbours:
            cells[f"near:{word}"] = self._cell("near", [(word, word)], sizes.near)
        others = [(word, word) for word in self.others]
        cells["others"] = self._cell("others", others, sizes.other * len(others))
        pairs = [(f"{name} and {Name.of(word).article}{word}", word) for word in self.partners]
        cells["pairs"] = self._cell("pairs", pairs, sizes.pair * len(pairs))
        return cells

    def _style_cells(self) -> dict[str, Cell]:
        name, sizes = self.name, self.sizes
        words = [(word, word) for word in self.world.objects]
        rest = [style for style in self.world.styles if style != name]
        cells = {
            "name": self._cell("name", words, sizes.name, [name], STYLE_GRAMMARS),
            "grammars": self._cell("grammars", words, sizes.name, [name], HELD_OUT_GRAMMARS),
        }
        for style in self.neighbours:
            cells[f"near:{style}"] = self._cell("near", words, sizes.near, [style], STYLE_GRAMMARS)
        count = sizes.other * len(words)
        cells["others"] = self._cell("others", words, count, rest, STYLE_GRAMMARS)
        return cells

    def _cell(
        self,
        part: str,
        words: Sequence[tuple[str, str]],
        count: int,
        styles: Sequence[str] | None = None,
        grammars: Sequence[str] = GRAMMARS,
    ) -> Cell:
        seed = self.seed + CELL_SEEDS[part]
        return self.world.cell(words, count, seed, styles, grammars)

    @property
    def words(self) -> dict[str, list[str]]:
        """For a row: what the pictures of a cell ask for in turn."""
        if self.is_style:
            return {}
        return {"others": list(self.others), "pairs": list(self.partners)}

    @property
    def pictures(self) -> int:
        """Pictures in all cells together."""
        return sum(len(cell.prompts) for cell in self.cells.values())

    def measure(
        self,
        erased: Erased,
        only: Iterable[str] | None = None,
        steps: int = DRAW_STEPS,
        samples: dict[str, Tensor] | None = None,
    ) -> Readings:
        """Draw and judge the cells, or those whose part before ":" is in `only`.

        The first SAMPLES pictures of each cell go into `samples`.
        """
        wanted = None if only is None else set(only)
        readings: Readings = {}
        for name, cell in self.cells.items():
            if wanted is None or name.partition(":")[0] in wanted:
                pictures = draw(erased, cell, steps)
                readings[name] = self.read(name, cell, pictures)
                if samples is not None:
                    samples[name] = pictures[:SAMPLES]
        return readings

    def read(self, name: str, cell: Cell, pictures: Tensor) -> dict[str, str]:
        """What the judge sees in a cell's pictures: question -> "1" or "0" a picture."""
        if name != "pairs":
            return self.world.agreement(cell, pictures)
        reading = self.world.read(pictures)
        found = list(zip(reading.objects, reading.second_objects, strict=True))
        return {
            "other": "".join(
                str(int(word in two)) for word, two in zip(cell.objects, found, strict=True)
            ),
            "concept": "".join(str(int(self.name in two)) for two in found),
            "style": agree(reading.styles, cell.styles),
        }


def draw(erased: Erased, cell: Cell, steps: int = DRAW_STEPS) -> Tensor:
    """A cell's pictures as this model draws them, (N, 3, h, w) in [-1, 1]."""
    return draw_cell(erased.model, erased.encoder, cell, negative=erased.negative, steps=steps)
