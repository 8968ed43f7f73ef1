"""What a denoiser is trained on: the diffusion loss, and what the text says outright."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional

TRAIN_STEPS = 1000
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_SNR_LIMIT = 5.0


class Objective(nn.Module):
    """Weighted v-prediction loss with Min-SNR-5 (Hang et al. 2023)."""

    signal: Tensor
    noise: Tensor
    weights: Tensor

    def __init__(self) -> None:
        """The schedule's tables."""
        super().__init__()
        betas = DDPMScheduler(num_train_timesteps=TRAIN_STEPS, **SCHEDULE).alphas_cumprod
        weights = torch.clamp(betas / (1 - betas), max=_SNR_LIMIT) * (1 - betas)
        self.register_buffer("signal", betas.sqrt(), persistent=False)
        self.register_buffer("noise", (1 - betas).sqrt(), persistent=False)
        self.register_buffer("weights", weights / weights.mean(), persistent=False)

    def forward(
        self, predict: Callable[[Tensor], Tensor], latents: Tensor, steps: Tensor, noise: Tensor
    ) -> Tensor:
        """The loss of `predict`, noisy latents -> v, both (n B, 4, 8, 8).

        latents (B, 4, 8, 8), scaled; steps (n B,) and noise (n B, 4, 8, 8): picture 0 with n noises
        first, then picture 1.
        """
        latents = latents.repeat_interleave(len(steps) // len(latents), 0)
        signal, spread = self.signal[steps].view(-1, 1, 1, 1), self.noise[steps].view(-1, 1, 1, 1)
        drawn = predict(signal * latents + spread * noise)
        error = (drawn - (signal * noise - spread * latents)).square().mean((1, 2, 3))
        return (error * self.weights[steps]).mean()


def names_loss(read: Tensor, named: Tensor) -> Tensor:
    """How badly logits (B, labels) tell what the captions name, (B, labels) bool."""
    loss = functional.binary_cross_entropy_with_logits(read, named.float(), reduction="none")
    return loss.sum(1).mean()


def spread_steps(batch: int) -> Tensor:
    """(batch,) steps, one from each part of the schedule."""
    return ((torch.randperm(batch) + torch.rand(batch)) / batch * TRAIN_STEPS).long()
