"""The adversary in the loop: word vectors that bring the concept back, found by gradient descent.

A search over embeddings only, no UNet: AdvUnlearn (Zhang et al. 2024, arXiv 2405.15234) does the
same through the UNet. What it finds is forgotten like another name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concept import Concept
from ..lora.encoder_lora import EncoderLora
from ..text.tokenizer import CHUNK, VOCABULARY
from ..words.prompts import ROLE_POOLED, Name, fill, make_prompts, pair_prompts
from .examples import ForgetExamples, cut, forget_examples
from .losses import RoleScales, role_distance
from .terms import ForgetTerm

EVERY = 10
"""Steps of the training between two searches."""
SEARCHES = 4
"""Vectors searched at once, each from another start."""
STEPS = 20
"""Of one search."""
STEP = 0.1
"""Adam's step per element, relative to a word vector's size per element."""
TEMPLATES = ("a photo of {it}", "{it}", "a picture of {it}", "an image of {it}")
STYLE_TEMPLATES = ("a photo in {it} style", "{it} style", "a picture, {it} style", "{it}")


@dataclass
class AdversarialExamples:
    """Adds to a forget set what its adversaries find."""

    adversaries: Sequence[Adversary]
    term: ForgetTerm

    def __call__(self, step: int) -> None:
        """Search before every EVERY-th step."""
        if step and step % EVERY == 0:
            found = [part for adversary in self.adversaries for part in adversary.find()]
            self.term.forget = [*self.term.forget, *found]


class Adversary:
    """Searches word vectors whose states under the LoRA are the concept's under no LoRA."""

    def __init__(
        self,
        lora: EncoderLora,
        concept: Concept,
        stand_in: Name,
        generator: torch.Generator,
        scales: RoleScales,
    ) -> None:
        tower = lora.tower
        self.lora, self.stand_in = lora, stand_in
        self.generator, self.scales = generator, scales
        templates = STYLE_TEMPLATES if concept.kind == "style" else TEMPLATES
        self._name = Name.of(concept.name, concept.kind)
        self._templates = templates
        wanted = make_prompts([fill(t, self._name) for t in templates])
        self._roles = tower.extended(wanted.roles, ROLE_POOLED).to(tower.device)
        with lora.disabled(), torch.no_grad():
            self._wanted = tower.encode(wanted.token_ids)

    def _searched(self, search: int) -> Name:
        count = len(self._name.ids)
        first = VOCABULARY + search * count
        return Name("<found>", tuple(range(first, first + count)), self._name.takes_article)

    def find(self) -> list[ForgetExamples]:
        """Search, and return the prompts with the vectors found, to be forgotten."""
        with torch.enable_grad():
            vectors = self._search()
        pairs = [
            (fill(template, self._searched(search)), fill(template, self.stand_in))
            for search in range(SEARCHES)
            for template in self._templates
        ]
        return forget_examples(self.lora, pair_prompts(pairs), vectors)

    def _search(self) -> Tensor:
        start = self.lora.tower.words.vectors(self._name.ids)
        size = float(start.norm(dim=1).mean()) / self.lora.tower.width**0.5
        starts = start.repeat(SEARCHES, 1)
        noise = torch.randn(starts.shape, generator=self.generator).to(starts)
        vectors = (starts + size * noise).requires_grad_(True)
        optimizer = torch.optim.Adam([vectors], lr=STEP * size)
        prompts = make_prompts(
            [
                fill(template, self._searched(search))
                for search in range(SEARCHES)
                for template in self._templates
            ]
        )
        length = int(prompts.ends.max()) + 8
        wanted = cut(self._wanted, length, CHUNK).repeat(SEARCHES, 1, 1)
        roles = cut(self._roles, length, CHUNK).repeat(SEARCHES, 1)
        for _ in range(STEPS):
            states = self.lora.tower.encode(prompts.token_ids[:, :length], vectors)
            loss = role_distance(states, wanted, roles, self.scales).mean()
            (vectors.grad,) = torch.autograd.grad(loss, [vectors])
            optimizer.step()
        found: Tensor = vectors.detach()
        return found
