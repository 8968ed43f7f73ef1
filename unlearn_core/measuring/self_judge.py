"""The unchanged model as the judge of pictures: which word explains this one best?

A diffusion classifier (Li et al. 2023, arXiv 2303.16203): the picture is noised, and the prompt
under which the unchanged UNet denoises it best names it. All words are compared at one timestep,
the best two at four more. A word must explain some of what the concept explains of the unchanged
model's own pictures of it, else the picture shows something else.

With six words that is 19 predictions of the UNet, where drawing a picture takes 20.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..models.denoising import denoising_losses
from ..models.lent_model import LentModel
from ..models.sampling import encode_pictures
from ..text.conditioning import Conditioning
from .judge import Judge

FIRST, THEN = (600,), (400, 500, 700, 800)
"""Timesteps at which all words are compared, and at which the best are compared once more."""
FINALISTS = 2
FIRST_OF_DISTILLED = (499,)
"""For a distilled model, which draws in four steps, and then no more: one of the timesteps that the
Turbo models are trained at (Sauer et al. 2023, arXiv 2311.17042)."""
LEAST_OF_OWN = 0.2
"""What a word must explain of a picture, as a share of the median of what the concept explains of
its own. Chosen on the demo model's tuning concepts, where 0 to 0.3 do the same."""


class SelfJudge:
    """Reads pictures with the unchanged model."""

    def __init__(
        self,
        model: LentModel,
        texts: Mapping[str, Conditioning],
        empty: Conditioning,
        always: Sequence[str],
        seed: int,
    ) -> None:
        """`texts` hold a prompt (1) for every word that can be asked about, of one template.

        All and the `empty` prompt (1) as the unchanged text encoder makes them. `always` are the
        words that every picture is compared with: the concept, then what is near it.
        """
        self._model, self._texts, self._empty = model, dict(texts), empty
        self._always, self._seed = tuple(always), seed
        self._first = FIRST_OF_DISTILLED if model.is_distilled else FIRST
        self._then: tuple[int, ...] = () if model.is_distilled else THEN
        self._least = 0.0

    @torch.no_grad()
    def see_own(self, pixels: Tensor) -> None:
        """Learn how well the concept explains the unchanged model's pictures of it.

        pixels (B, 3, h, w) float32 in [-1, 1]. Raises TrainingFailed.
        """
        latents = encode_pictures(self._model, pixels.unbind())
        timesteps = (*self._first, *self._then)
        named = self._losses(latents, self._texts[self._always[0]], timesteps)
        empty = self._losses(latents, self._empty, timesteps)
        self._least = max(0.0, LEAST_OF_OWN * float((1 - named / empty).median()))

    def as_judge(self) -> Judge:
        """Itself, as the evaluation asks it."""
        return Judge("the unchanged model", frozenset(self._texts), self.read)

    @torch.no_grad()
    def read(self, pixels: Tensor, word: str) -> list[str | None]:
        """The word that explains each picture best; see `Judge.read`. Raises TrainingFailed."""
        latents = encode_pictures(self._model, pixels.unbind())
        words = list(dict.fromkeys((*self._always, word)))
        texts = Conditioning.cat([self._texts[w] for w in words])
        losses = torch.stack(
            [self._losses(latents, texts[[i]], self._first) for i in range(len(words))]
        )
        empty = self._losses(latents, self._empty, self._first)
        finalists = losses.topk(min(FINALISTS, len(words)), dim=0, largest=False).indices
        losses = losses.gather(0, finalists)
        if self._then:
            again = [self._losses(latents, texts[row], self._then) for row in finalists]
            losses = self._joined(losses, torch.stack(again))
            empty = self._joined(empty, self._losses(latents, self._empty, self._then))
        least, winner = losses.min(dim=0)
        best = finalists.gather(0, winner[None])[0].tolist()
        explains = (1 - least / empty > self._least).tolist()
        return [words[i] if enough else None for i, enough in zip(best, explains, strict=True)]

    def _losses(self, latents: Tensor, text: Conditioning, timesteps: Sequence[int]) -> Tensor:
        """(B,): see `denoising_losses`; `text` is one for all pictures, or one for each."""
        texts = text.expand(len(latents))
        return denoising_losses(self._model, latents, texts, timesteps, self._seed)

    def _joined(self, first: Tensor, then: Tensor) -> Tensor:
        """The mean over all timesteps, from the means over the two parts."""
        share = len(self._first) / (len(self._first) + len(self._then))
        return share * first + (1 - share) * then
