"""The diffusion process in formulas: noising, epsilon against v, timestep draws. Pure functions.

Notation of DDPM (Ho et al. 2020, arXiv 2006.11239): a = alphas_cumprod[t],
x_t = sqrt(a) x_0 + sqrt(1 - a) eps; v = sqrt(a) eps - sqrt(1 - a) x_0 (Salimans and Ho 2022,
arXiv 2202.00512, section 4 and appendix D).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .families import Prediction
from .lent_model import LentModel


def signal_and_noise_rates(alphas_cumprod: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(a) and sqrt(1 - a) at `timesteps` (B,) int64, each (B, 1, 1, 1) float32."""
    a = alphas_cumprod.to(timesteps.device)[timesteps].float().view(-1, 1, 1, 1)
    return a.sqrt(), (1 - a).sqrt()


def add_noise(clean: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """x_t from x_0 `clean` and eps `noise`, both (B, 4, h, w)."""
    signal, sigma = signal_and_noise_rates(alphas_cumprod, timesteps)
    return signal * clean + sigma * noise


def training_target(
    clean: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, prediction: Prediction
) -> Tensor:
    """What the UNet should output for these noised latents: eps, or v."""
    if prediction == "epsilon":
        return noise
    signal, sigma = signal_and_noise_rates(alphas_cumprod, timesteps)
    return signal * noise - sigma * clean


def noised_and_target(
    model: LentModel, clean: Tensor, noise: Tensor, timesteps: Tensor
) -> tuple[Tensor, Tensor]:
    """(x_t, what the model's UNet should output for it), both (B, 4, h, w)."""
    alphas = model.alphas_cumprod
    noisy = add_noise(clean, noise, timesteps, alphas)
    return noisy, training_target(clean, noise, timesteps, alphas, model.prediction)


def split_prediction(
    output: Tensor,
    noisy: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    prediction: Prediction,
) -> tuple[Tensor, Tensor]:
    """The UNet's `output` at `noisy` read as (x_0, eps)."""
    signal, sigma = signal_and_noise_rates(alphas_cumprod, timesteps)
    if prediction == "epsilon":
        return (noisy - sigma * output) / signal, output
    return signal * noisy - sigma * output, signal * output + sigma * noisy


def draw_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """(count,) int64 on the CPU, one uniform draw in each of `count` equal parts of 0..999.

    Stratified draws keep the marginal uniform and lower the variance of the loss.
    """
    strata = torch.arange(count, dtype=torch.float64)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    return ((strata + uniform) * (1000 / count)).long().clamp_(max=999)
