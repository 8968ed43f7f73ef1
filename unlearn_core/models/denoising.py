"""The denoising loss: of a prediction, of conditionings, and as a classifier of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import TrainingFailed
from ..progress import READING_PICTURES, Progress, RunMonitor, stop_if_asked
from ..text.conditioning import Conditioning
from .lent_model import LentModel
from .noise import draw_timesteps, noised_and_target
from .sampling import paired_noise

ROUNDS = (2, 6, 16)
"""Noised copies of each picture that every round adds."""
KEPT_SHARE = 4
"""One in so many prompts goes on to the next round."""
LEAST_KEPT = 6
BATCH_PIXELS = 8 * 64 * 64
"""Latent pixels in one call of the UNet: 8 pictures of 512 pixels, as a step of the inversion."""
READ_TIMESTEPS = (200, 350, 500, 650, 800)
"""Timesteps at which a picture is told apart by its denoising loss."""
EARLIEST, LATEST = 150, 850
"""Timesteps between which pictures are noised: beyond, prompts hardly differ."""


@dataclass(frozen=True)
class NoisedPictures:
    """P noised copies of pictures, on which all prompts are compared."""

    noisy: Tensor
    """(P, 4, h, w) float32."""
    timesteps: Tensor
    """(P,) int64."""
    targets: Tensor
    """(P, 4, h, w) float32: what the UNet should predict."""

    @classmethod
    def draw(
        cls, model: LentModel, latents: Tensor, copies: int, generator: torch.Generator
    ) -> NoisedPictures:
        """`copies` of each of the latents (N, 4, h, w), their timesteps spread evenly."""
        clean = latents.repeat_interleave(copies, dim=0)
        spread = [draw_timesteps(copies, generator) for _ in range(len(latents))]
        t = (EARLIEST + torch.cat(spread) * (LATEST - EARLIEST) // 1000).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        noisy, targets = noised_and_target(model, clean, noise, t)
        return cls(noisy, t, targets)

    @torch.no_grad()
    def losses(self, model: LentModel, texts: Conditioning) -> Tensor:
        """Mean squared error of the prediction for each prompt and copy, (W, P) on the CPU.

        W prompts: W * P samples go through the UNet, in batches. Raises TrainingFailed when a loss
        is not a number.
        """
        copies = len(self.timesteps)
        area = self.noisy.shape[2] * self.noisy.shape[3]
        found = []
        every = torch.arange(len(texts) * copies, device=self.noisy.device)
        for part in every.split(max(1, BATCH_PIXELS // area)):
            word, copy = part // copies, part % copies
            output = model.predict(self.noisy[copy], self.timesteps[copy], texts[word])
            found.append((output - self.targets[copy]).pow(2).mean((1, 2, 3)).float().cpu())
        return _checked(torch.cat(found)).view(len(texts), copies)


def draw_batch(
    model: LentModel, latents: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, NoisedPictures]:
    """For a training step: (places among the latents, (count,) on the CPU; these, noised).

    latents (N, 4, h, w); places are drawn with repetition, timesteps from all of 0..999.
    """
    chosen = torch.randint(len(latents), (count,), generator=generator)
    clean = latents[chosen.to(latents.device)]
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    t = draw_timesteps(count, generator).to(clean.device)
    noisy, targets = noised_and_target(model, clean, noise, t)
    return chosen, NoisedPictures(noisy, t, targets)


@dataclass(frozen=True)
class Comparison:
    """The prompts that were left at the end, each on the same noised pictures."""

    order: tuple[int, ...]
    """Their places among the prompts, best first."""
    losses: Tensor
    """(len(order), P) float32 on the CPU."""
    empty: Tensor
    """(P,) float32: the losses of the empty prompt."""
    noised: tuple[NoisedPictures, ...]
    """What they were compared on, so that further prompts can be."""
    samples: int
    """How many noised pictures went through the UNet."""


def compare(
    model: LentModel,
    latents: Tensor,
    texts: Conditioning,
    empty: Conditioning,
    generator: torch.Generator,
    monitor: RunMonitor,
) -> Comparison:
    """Rank prompts by how well they denoise pictures; after each round a quarter goes on.

    latents (N, 4, h, w); `empty` is the empty prompt. For W prompts and N pictures
    2 (W + 1) N + 6 (W/4 + 1) N + 16 (W/16 + 1) N samples, at least `LEAST_KEPT` prompts in a
    round. Raises Cancelled, and TrainingFailed when a loss is not a number.
    """
    left = list(range(len(texts)))
    losses, of_empty = torch.zeros(len(left), 0), torch.zeros(0)
    noised: list[NoisedPictures] = []
    samples = 0
    for number, copies in enumerate(ROUNDS):
        stop_if_asked(monitor)
        drawn = NoisedPictures.draw(model, latents, copies, generator)
        found = drawn.losses(model, Conditioning.cat([empty, texts[left]]))
        samples += found.numel()
        noised.append(drawn)
        of_empty = torch.cat([of_empty, found[0]])
        losses = torch.cat([losses, found[1:]], dim=1)
        best = losses.mean(1).argsort(stable=True)
        if number + 1 < len(ROUNDS):
            best = best[: max(LEAST_KEPT, len(left) // KEPT_SHARE)]
        left, losses = [left[i] for i in best.tolist()], losses[best]
        monitor.report(Progress(READING_PICTURES, number + 1, len(ROUNDS)))
    return Comparison(tuple(left), losses, of_empty, tuple(noised), samples)


def prediction_error(
    model: LentModel,
    noisy: Tensor,
    timesteps: Tensor,
    text: Conditioning,
    target: Tensor,
    rows: int,
) -> Tensor:
    """A scalar that is differentiable in `text`; `rows` pictures go through the UNet together.

    noisy and target (B, 4, h, w), timesteps (B,), text of B prompts. With fewer rows than B each
    micro-batch's gradient at the text is taken at once, so that nothing but one is held; value and
    gradient are those of the whole up to rounding.
    """
    if rows >= len(noisy) or not (torch.is_grad_enabled() and text.requires_grad):
        return functional.mse_loss(model.predict(noisy, timesteps, text), target)
    error = target.new_zeros(())
    gradients: list[tuple[Tensor, ...]] = []
    for start in range(0, len(noisy), rows):
        part = slice(start, start + rows)
        given = text[part].map(lambda tensor: tensor.detach().requires_grad_(True))
        predicted = model.predict(noisy[part], timesteps[part], given)
        share = (predicted - target[part]).pow(2).sum() / target.numel()
        gradients.append(torch.autograd.grad(share, given.tensors))
        error += share.detach()
    # Adds nothing to the value, and on the way back hands on the gradients taken above.
    for tensor, parts in zip(text.tensors, zip(*gradients, strict=True), strict=True):
        error = error + ((tensor - tensor.detach()) * torch.cat(parts)).sum()
    return error


def denoising_losses(
    model: LentModel, latents: Tensor, text: Conditioning, timesteps: Sequence[int], seed: int
) -> Tensor:
    """Mean squared error of the prediction per picture, over given timesteps. (N,) float32.

    latents (N, 4, h, w), text of N prompts. The noise depends on seed, picture and timestep
    only, so that two texts are compared on the same noise. Raises TrainingFailed when a loss is
    not a number.
    """
    height, width = (8 * edge for edge in latents.shape[2:])
    total = latents.new_zeros(len(latents))
    for order, time_step in enumerate(timesteps):
        noise = torch.cat(
            [paired_noise(seed + 1 + order, i, height, width) for i in range(len(latents))]
        ).to(latents.device)
        t = torch.full((len(latents),), time_step, dtype=torch.int64, device=latents.device)
        noisy, target = noised_and_target(model, latents, noise, t)
        total = total + (model.predict(noisy, t, text) - target).pow(2).mean((1, 2, 3))
    return _checked(total / len(timesteps))


def _checked(losses: Tensor) -> Tensor:
    if not bool(losses.isfinite().all()):
        raise TrainingFailed(
            "What the model's UNet predicts for the pictures is not a number: its weights are "
            "broken, or half precision is too small for them. Load the model's file again."
        )
    return losses
