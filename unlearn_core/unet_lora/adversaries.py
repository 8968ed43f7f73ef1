"""Adversaries in the loop: vectors that learn to draw the concept while the UNet forgets it.

STEREO (Srivatsan et al. 2024, arXiv 2408.16807) finds vectors by textual inversion, trains, and
finds others. Here the vectors take a step whenever the UNet does ("free" adversarial training,
Shafahi et al. 2019, arXiv 1904.12843), each begins anew after a while, and what they chase is the
unchanged model's prediction for the concept, which is nearer than the pictures' own noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..text.conditioning import Conditioning
from ..text.text_encoder import TextEncoder
from ..text.tokenizer import VOCABULARY, token_ids, tokenize

STEP, STATE_STEP = 0.3, 0.1
"""Adam's first step on an element: relative to a word vector's elements, and on a free state."""
LAST_RATE = 0.1
"""Of the first rate, at an adversary's last step."""
JITTER = 0.2
"""Noise on a word to begin with, relative to its elements."""
SPREAD = 0.3, 1.7
"""Shortest and longest life relative to the mean."""
NEUTRAL = "object"
PLAIN = ("a photo of a <v>", "a picture of a <v>", "a <v>", "an image of a <v>")
STYLED = ("a <v>, {style} style", "a photo of a <v>, {style} style")


@dataclass(frozen=True)
class Field:
    """Where adversaries begin and what they stand in."""

    encoder: TextEncoder
    """With the text encoder's LoRA in it; of one tower."""
    starts: Sequence[str]
    """Words to begin with; as often they begin at random."""
    styles: Sequence[str]
    age: int
    """Mean number of steps of an adversary's life."""
    generator: torch.Generator

    @property
    def templates(self) -> tuple[str, ...]:
        """Prompts around "<v>"."""
        return (*PLAIN, *(t.format(style=style) for style in self.styles for t in STYLED))

    def draw(self, count: int) -> int:
        """One of 0 .. count - 1."""
        return int(torch.randint(count, (), generator=self.generator))

    def noise(self, *shape: int) -> Tensor:
        """Normal, float32 on the encoder's device."""
        return torch.randn(*shape, generator=self.generator).to(self.encoder.device)

    def random_words(self, count: int) -> Tensor:
        """(count, width): with mean and deviation of the words that the model knows."""
        known = self._known()
        return known.mean(0) + known.std(0) * self.noise(count, known.shape[1])

    def word_size(self) -> float:
        """Root mean square of an element of a known word."""
        return float(self._known().pow(2).mean().sqrt())

    def _known(self) -> Tensor:
        table = self.encoder.word_table
        return table[table.any(dim=1)]


class Adversary:
    """Word vectors in a prompt; begins anew at the end of its life."""

    def __init__(self, field: Field, count: int) -> None:
        """`count` vectors, (count, width)."""
        self.field, self.count = field, count
        self._begin()
        self._done = field.draw(self._life)  # not all of them are young at once

    def _begin(self) -> None:
        low, high = SPREAD
        share = low + (high - low) * float(torch.rand((), generator=self.field.generator))
        self._life, self._done = max(1, int(self.field.age * share)), 0
        self.vectors, self._rate = self._start()
        self.vectors.requires_grad_(True)
        self._adam = torch.optim.Adam([self.vectors], lr=self._rate)

    def _start(self) -> tuple[Tensor, float]:
        """The first vectors, and Adam's first step on an element."""
        field, size = self.field, self.field.word_size()
        if field.draw(2):
            return field.random_words(self.count), STEP * size
        word = tokenize(field.starts[field.draw(len(field.starts))])[0]
        start = field.encoder.word_vectors([word] * self.count).clone()
        return start + JITTER * size * field.noise(*start.shape), STEP * size

    def text(self) -> Conditioning:
        """One prompt with the vectors in it, differentiable in them."""
        return self.field.encoder.condition(self._ids(), self.vectors)

    def _ids(self) -> Tensor:
        templates = self.field.templates
        ids = list(range(VOCABULARY, VOCABULARY + self.count))
        return token_ids(templates[self.field.draw(len(templates))], {"<v>": ids})

    def step(self, gradient: Tensor) -> None:
        """One step down; `gradient` (count, width) is that of the adversary's loss."""
        self._adam.param_groups[0]["lr"] = self._rate * (
            1 - (1 - LAST_RATE) * self._done / self._life
        )
        self.vectors.grad = gradient
        self._adam.step()
        self._done += 1
        if self._done >= self._life:
            self._begin()


class FreeState(Adversary):
    """One state of the conditioning: what so long a vector becomes that it passes through.

    Its length is taken away by the final LayerNorm, see bench/notes/learned-vectors.md.
    """

    def __init__(self, field: Field) -> None:
        """At random."""
        super().__init__(field, 1)

    def _start(self) -> tuple[Tensor, float]:
        return self.field.noise(1, self.field.encoder.width), STATE_STEP

    def text(self) -> Conditioning:
        """A neutral prompt's states, one of them free."""
        (tower,) = self.field.encoder.towers
        ids = self._ids().to(self.vectors.device)
        free = ids >= VOCABULARY
        with torch.no_grad():
            states = tower.encode(ids.masked_fill(free, tokenize(NEUTRAL)[0]))
        return Conditioning(torch.where(free[..., None], tower.normed(self.vectors), states))
