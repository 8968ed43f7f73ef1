"""The terms of the training loss: each is a class that draws its own batch at every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..lora.encoder_lora import EncoderLora
from ..models.denoising import draw_batch, prediction_error
from ..models.lent_model import LentModel
from ..text.text_encoder import TextEncoder
from ..text.token_trees import encode_groups
from ..text.tower_encoder import TowerEncoder
from ..words.prompts import ForgetPrompts
from .examples import Examples, ForgetExamples
from .losses import RoleScales, role_distance

MICRO_BATCH_TOKENS = 512
"""In one pass through the trained layers, whose states are held for the gradient."""
BATCH_PICTURES = 4
"""Noised pictures in a step of the ascent."""
ASCENT_PROMPTS = 32


class Term(Protocol):
    """A weighted term of the loss."""

    def __call__(self, step: int) -> Iterator[Tensor]:
        """Scalars that add up to the term at this step, one for each micro-batch."""


@dataclass(frozen=True)
class TextDistance:
    """Draws batches of prompts, and measures how far they are from their targets."""

    tower: TowerEncoder
    scales: RoleScales
    batch_size: int
    generator: torch.Generator

    def draw(self, parts: Sequence[Examples]) -> Examples:
        """A batch of one length; every prompt is as likely as any other."""
        row = int(torch.randint(sum(map(len, parts)), (), generator=self.generator))
        for part in parts:
            if row < len(part):
                break
            row -= len(part)
        chosen = torch.randint(len(part), (self.batch_size,), generator=self.generator)
        return part.rows(chosen.to(part.states.device))

    def weighted(self, *parts: tuple[Examples, float]) -> Iterator[Tensor]:
        """Weight times mean distance of examples of one length, micro-batch by micro-batch."""
        counted = [(part, weight) for part, weight in parts if weight > 0 and len(part)]
        if not counted:
            return
        rows = [
            torch.cat([getattr(part, name) for part, _ in counted])
            for name in ("states", "targets", "roles", "ends")
        ]
        shares = [torch.full((len(part),), weight / len(part)) for part, weight in counted]
        rows.append(torch.cat(shares).to(rows[0]))
        most = max(1, MICRO_BATCH_TOKENS // counted[0][0].length)
        for states, targets, roles, ends, share in zip(
            *(part.split(most) for part in rows), strict=True
        ):
            far = role_distance(self.tower.tail(states, ends), targets, roles, self.scales)
            yield (share * far).sum()


@dataclass
class RetainTerm:
    """Prompts of the retain set, and the guard's empty and negative ones, stay where they are."""

    distance: TextDistance
    retain: list[Examples]
    guard: Examples
    weight: float
    guard_weight: float

    def __call__(self, step: int) -> Iterator[Tensor]:
        """See Term. The guard's few prompts share a pass: one of its own is mostly overhead."""
        batch = self.distance.draw(self.retain)
        guard = self.guard.cut(max(batch.length, self._shortest_guard))
        both = (batch, self.weight), (guard, self.guard_weight)
        for shared in [both] if guard.length == batch.length else [both[:1], both[1:]]:
            yield from self.distance.weighted(*shared)

    @cached_property
    def _shortest_guard(self) -> int:
        """The positions that hold EOS, where a pooled vector is read there."""
        return int(self.guard.ends.max()) + 1 if self.distance.tower.extra else 0


@dataclass
class ForgetTerm:
    """Prompts of the forget set are moved onto the stand-in's."""

    distance: TextDistance
    forget: list[ForgetExamples]
    weight: float

    def __call__(self, step: int) -> Iterator[Tensor]:
        """See Term."""
        yield from self.distance.weighted((self.distance.draw(self.forget), self.weight))


@dataclass(frozen=True)
class ConceptPictures:
    """The pictures of a concept, and the prompts under which they are read."""

    latents: Tensor
    """(N, 4, h, w)."""
    states: tuple[Tensor, ...]
    """For each tower (ASCENT_PROMPTS, 77, width): what enters the first trained layer."""
    ends: Tensor
    """(ASCENT_PROMPTS,) int64: where EOS stands."""

    @classmethod
    def of(
        cls,
        encoder: TextEncoder,
        loras: Sequence[EncoderLora],
        latents: Tensor,
        prompts: ForgetPrompts,
        learned: Tensor | None,
    ) -> ConceptPictures:
        """Encode the prompts, with the learned vectors in them."""
        # The stand-in's prompts go along: what shares a pass decides how the states are rounded.
        groups = [prompts.token_ids, prompts.stand_in_ids]
        vectors: Sequence[Tensor | None] = [None] * len(loras)
        if learned is not None:
            vectors = encoder.split(learned)
        states = []
        for tower, lora, part in zip(encoder.towers, loras, vectors, strict=True):
            with lora.disabled():
                (before, _), _ = encode_groups(tower, groups, part)
            states.append(before)
        return cls(latents, tuple(states), prompts.ends)


@dataclass
class AscentTerm:
    """Minus the denoising loss of the pictures under the concept's prompts.

    The forget term of arXiv 2505.12395: textual inversion's loss with its sign reversed.
    """

    model: LentModel
    encoder: TextEncoder
    concepts: Sequence[ConceptPictures]
    """They take turns, a step each."""
    weight: float
    generator: torch.Generator
    unet_rows: int = BATCH_PICTURES
    """Pictures of a batch that go through the UNet together."""

    def __call__(self, step: int) -> Iterator[Tensor]:
        """See Term."""
        concept = self.concepts[step % len(self.concepts)]
        rows = torch.randint(len(concept.ends), (BATCH_PICTURES,), generator=self.generator)
        _, batch = draw_batch(self.model, concept.latents, BATCH_PICTURES, self.generator)
        states = [part[rows.to(part.device)] for part in concept.states]
        text = self.encoder.tail(states, concept.ends[rows])
        error = prediction_error(
            self.model, batch.noisy, batch.timesteps, text, batch.targets, self.unet_rows
        )
        yield -self.weight * error
