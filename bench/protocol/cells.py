"""Held-out prompts of the demo world, drawn and judged in cells.

A cell is a set of pictures of one thing: prompts in grammars that the eraser's templates lack, a
random style and background each, noise fixed by the cell. The judge is the classifier in demo/, or
CLIP (`bench.protocol.clip_judge`) where the model draws larger pictures.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unlearn_core.loaders.demo_model import load_demo_judge, load_demo_world
from unlearn_core.models.lent_model import LentModel
from unlearn_core.models.sampling import draw_pictures, paired_noise
from unlearn_core.text.conditioning import Conditioning
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import token_ids
from unlearn_core.words.prompts import Name

GRAMMARS = (
    "{it} in the style of {style}",
    "{style} {bare} on {background}",
    "{it}, {style} style, on {background}",
)
DRAW_STEPS = 8
GUIDANCE = 5.0
SMALL, LARGE_BATCH = 128, 4
"""Pictures with a longer edge than SMALL are drawn a few at a time."""


class PictureJudge(Protocol):
    """A network that names what pictures show."""

    objects: list[str]
    styles: list[str]

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, h, w) in [-1, 1] -> logits (B, objects) and (B, styles)."""


@dataclass(frozen=True)
class Cell:
    """Prompts with what each should show."""

    prompts: tuple[str, ...]
    objects: tuple[str, ...]
    styles: tuple[str, ...]
    seed: int
    """Seed of the noise; the n-th prompt always gets the same noise."""


@dataclass(frozen=True)
class Reading:
    """What the judge saw, per picture."""

    objects: tuple[str, ...]
    """The likeliest object."""
    styles: tuple[str, ...]
    pictures: Tensor
    second_objects: tuple[str, ...] = ()
    """The second likeliest object: in a picture of a pair both should be found."""


class World:
    """The demo world: its words, and its judge."""

    def __init__(
        self, judge: PictureJudge | None = None, device: torch.device | None = None
    ) -> None:
        """Read world.json, and without another judge the one from demo/, put on `device`."""
        world = load_demo_world()
        self.objects: dict[str, dict] = world["objects"]
        self.styles: tuple[str, ...] = tuple(world["styles"])
        self.backgrounds: tuple[str, ...] = tuple(world["backgrounds"])
        self._device = device or torch.device("cpu")
        self.judge: PictureJudge = judge or load_demo_judge().to(self._device)

    def synonyms(self, name: str) -> tuple[str, ...]:
        """Other names that the model was taught for an object; none for a style."""
        return tuple(self.objects.get(name, {}).get("synonyms", ()))

    def cell(
        self,
        words: Sequence[tuple[str, str]],
        count: int,
        seed: int,
        styles: Sequence[str] | None = None,
        grammars: Sequence[str] = GRAMMARS,
    ) -> Cell:
        """`count` prompts; the (word, object) pairs and the grammars take turns."""
        draw = random.Random(seed)
        prompts, objects, shown_styles = [], [], []
        for number in range(count):
            word, shown = words[number % len(words)]
            style = draw.choice(list(styles or self.styles))
            grammar = grammars[(number // len(words)) % len(grammars)]
            background = draw.choice(list(self.backgrounds))
            it = Name.of(word).article + word
            prompts.append(grammar.format(it=it, bare=word, style=style, background=background))
            objects.append(shown)
            shown_styles.append(style)
        return Cell(tuple(prompts), tuple(objects), tuple(shown_styles), seed)

    @torch.no_grad()
    def read(self, pictures: Tensor) -> Reading:
        """Judge pictures (N, 3, h, w) in [-1, 1]."""
        read = [self.judge(part.to(self._device)) for part in pictures.split(256)]
        objects, styles = (torch.cat(part).cpu() for part in zip(*read, strict=True))
        first, second = objects.topk(2).indices.T.tolist()
        return Reading(
            tuple(self.judge.objects[i] for i in first),
            tuple(self.judge.styles[i] for i in styles.argmax(1).tolist()),
            pictures,
            tuple(self.judge.objects[i] for i in second),
        )

    def agreement(self, cell: Cell, pictures: Tensor) -> dict[str, str]:
        """Whether a cell's pictures show the object and the style that were asked for."""
        seen = self.read(pictures)
        return {
            "object": agree(seen.objects, cell.objects),
            "style": agree(seen.styles, cell.styles),
        }


@torch.no_grad()
def draw_prompts(
    model: LentModel,
    encoder: TextEncoder,
    ids: Tensor,
    seed: int,
    negative: str = "",
    steps: int = DRAW_STEPS,
    learned: Tensor | None = None,
) -> Tensor:
    """Pictures (N, 3, h, w) in [-1, 1] of prompts (N, 77); the n-th always has the same noise.

    `negative` is the prompt of the branch without the prompt; `learned` are word vectors in `ids`.
    """
    unique, place = ids.unique(dim=0, return_inverse=True)
    encoded = Conditioning.cat([encoder.condition(part, learned) for part in unique.split(64)])
    size = model.native_size
    noise = torch.cat([paired_noise(seed, i, size, size) for i in range(len(ids))])
    without = encoder.condition(token_ids(negative))
    batch = len(ids) if size <= SMALL else LARGE_BATCH
    return torch.cat(
        [
            draw_pictures(model, encoded[rows], without, part, steps, GUIDANCE)
            for rows, part in zip(
                place.to(encoded.tokens.device).split(batch), noise.split(batch), strict=True
            )
        ]
    )


def draw_cell(
    model: LentModel,
    encoder: TextEncoder,
    cell: Cell,
    negative: str = "",
    steps: int = DRAW_STEPS,
) -> Tensor:
    """The cell's pictures, see `draw_prompts`."""
    ids = torch.cat([token_ids(prompt) for prompt in cell.prompts])
    return draw_prompts(model, encoder, ids, cell.seed, negative, steps)


def agree(seen: Sequence[str], wanted: Sequence[str]) -> str:
    """Picture by picture whether it shows what was wanted: one "1" or "0" each."""
    return "".join(str(int(a == b)) for a, b in zip(seen, wanted, strict=True))
