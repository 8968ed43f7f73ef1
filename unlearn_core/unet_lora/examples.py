"""Noised pictures with what the unchanged UNet says of them: what is forgotten, what is kept.

Everything here is computed once, before a LoRA is on the UNet. The model draws the pictures itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.lent_model import LentModel
from ..models.noise import add_noise
from ..models.sampling import denoise
from ..text.conditioning import Conditioning

COPIES = 4
"""Noised copies of each kept picture with its own prompt."""
DRAWN_STEPS, GUIDANCE = 8, 5.0
TOGETHER = 64
"""Pictures that are drawn at once."""
RANDOM_WORDS = 96
"""Prompts with a random word vector that are kept."""


@dataclass(frozen=True)
class Examples:
    """N noised pictures, and what is to be predicted for them."""

    noisy: Tensor
    """(N, 4, h, w) float32."""
    timesteps: Tensor
    """(N,) int64."""
    wanted: Tensor
    """(N, 4, h, w) float32: what the UNet should put out."""

    def __len__(self) -> int:
        return len(self.timesteps)


@dataclass(frozen=True)
class ForgetSet(Examples):
    """Pictures of the concept; whatever the conditioning, the stand-in is to be predicted."""

    concept: Tensor
    """(N, 4, h, w) float32: what the unchanged UNet predicts for the concept."""

    def spread(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` of them, (count,) int64: one from each equal part of the timesteps."""
        width = len(self) // count
        within = torch.randint(width, (count,), generator=generator)
        return self.timesteps.argsort().cpu()[within + width * torch.arange(count)]


@dataclass(frozen=True)
class RetainSet(Examples):
    """Pictures of other things, and other prompts; the prediction is to stay what it is."""

    texts: Conditioning
    """What the prompts are with the text encoder's LoRA."""
    prompts: Tensor
    """(N,) int64: each picture's place in `texts`."""


@dataclass(frozen=True)
class Painter:
    """The unchanged model, drawing and predicting."""

    model: LentModel
    empty: Conditioning
    """Of the empty prompt."""
    generator: torch.Generator

    def draw(self, texts: Conditioning, count: int) -> Tensor:
        """`count` latents (count, 4, h, w), the prompts taking turns."""
        edge = self.model.native_size // self.model.family.vae_factor
        noise = torch.randn(count, 4, edge, edge, generator=self.generator)
        rows = torch.arange(count, device=texts.tokens.device) % len(texts)
        parts = zip(rows.split(TOGETHER), noise.split(TOGETHER), strict=True)
        return torch.cat(
            [
                denoise(self.model, texts[part], self.empty, own, DRAWN_STEPS, GUIDANCE)
                for part, own in parts
            ]
        )

    def noised(self, clean: Tensor, timesteps: Tensor) -> Tensor:
        """Latents (N, 4, h, w) with noise of their own."""
        noise = torch.randn(clean.shape, generator=self.generator).to(clean)
        return add_noise(clean, noise, timesteps, self.model.alphas_cumprod)

    @torch.no_grad()
    def predict(self, noisy: Tensor, timesteps: Tensor, texts: Conditioning) -> Tensor:
        """The UNet's output for as many prompts, (N, 4, h, w)."""
        parts = torch.arange(len(noisy), device=noisy.device).split(TOGETHER)
        return torch.cat(
            [self.model.predict(noisy[part], timesteps[part], texts[part]) for part in parts]
        )

    def pick(self, pictures: Tensor, count: int) -> Tensor:
        """`count` of the pictures, at random."""
        chosen = torch.randint(len(pictures), (count,), generator=self.generator)
        return pictures[chosen.to(pictures.device)]


def forget_set(
    painter: Painter,
    pictures: Tensor,
    concept: Conditioning,
    stand_in: Conditioning,
    push: float,
    count: int,
) -> ForgetSet:
    """`count` noised pictures of the concept; its prompts and the stand-in's belong together.

    What is wanted is s - push (c - s), of the unchanged predictions c and s for both: beyond the
    stand-in, away from the concept, as ESD turns guidance around (Gandikota et al. 2023,
    arXiv 2303.07345, equation 7).
    """
    device = pictures.device
    clean = pictures[torch.arange(count, device=device) % len(pictures)]
    evenly = torch.arange(count) * 1000 // count
    t = evenly[torch.randperm(count, generator=painter.generator)].to(device)
    noisy = painter.noised(clean, t)
    rows = torch.arange(count, device=concept.tokens.device) % len(concept)
    of_concept = painter.predict(noisy, t, concept[rows])
    of_stand_in = painter.predict(noisy, t, stand_in[rows])
    wanted = of_stand_in - push * (of_concept - of_stand_in)
    return ForgetSet(noisy, t, wanted, of_concept)


def retain_set(
    painter: Painter,
    pictures: Tensor,
    others: Sequence[Tensor],
    before: Conditioning,
    after: Conditioning,
    words: Conditioning,
    empty: Conditioning,
) -> RetainSet:
    """What must not change: kept prompts, the empty prompt and random words.

    `pictures` are of the kept prompts, which are `before` for the unchanged encoder and `after`
    with its LoRA; `others` are of the concept and of the stand-in. `words` are prompts with random
    vectors and `empty` the empty prompt, both with the LoRA.
    """
    kept, count = len(before), len(pictures)
    own = torch.arange(count) % kept
    strange = torch.cat(list(others))
    parts = [
        (pictures.repeat(COPIES, 1, 1, 1), own.repeat(COPIES)),
        (painter.pick(strange, count), _some(kept, count, painter)),
        (painter.pick(pictures, count // 2), _some(kept, count // 2, painter)),
        (painter.pick(torch.cat([pictures, others[-1]]), count), torch.full((count,), kept)),
        (painter.pick(pictures, count // 2), kept + 1 + _some(len(words), count // 2, painter)),
    ]
    clean = torch.cat([picture for picture, _ in parts])
    prompts = torch.cat([prompt for _, prompt in parts]).to(clean.device)
    t = torch.randint(1000, (len(clean),), generator=painter.generator).to(clean.device)
    noisy = painter.noised(clean, t)
    unchanged = Conditioning.cat([before, painter.empty, words])
    wanted = painter.predict(noisy, t, unchanged[prompts])
    return RetainSet(noisy, t, wanted, Conditioning.cat([after, empty, words]), prompts)


def _some(count: int, draws: int, painter: Painter) -> Tensor:
    return torch.randint(count, (draws,), generator=painter.generator)
