"""Stage 1: the VAE, trained on the generator's pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from bench.emoji_canvas.training.muon import Muon
from bench.emoji_canvas.training.stage import Average, Stage, as_batch

SCALING = 0.18215
BATCH = 16
SEED = 1
_LEARNING_RATE = 1.0e-3
_MUON_LEARNING_RATE = 1.5e-3
_ENCODER_UNTIL = 0.5
"""Share of the budget after which the encoder rests: the decoder alone learns a third faster."""
_LOG_EVERY = 50
_WIDE = 24
"""Convolutions narrower than this at either end go to Adam."""


def new_autoencoder() -> AutoencoderKL:
    """The untrained VAE: factor 8, 4 latent channels, 2.0 M parameters."""
    torch.manual_seed(SEED)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(24, 48, 80, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=SCALING,
    )


def _slopes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    return pixels[..., 1:] - pixels[..., :-1], pixels[..., 1:, :] - pixels[..., :-1, :]


def _loss(vae: AutoencoderKL, pixels: Tensor, encoder_learns: bool) -> tuple[Tensor, Tensor]:
    """Loss and mean squared error; L1, L1 of the slopes, squares, and a trace of KL."""
    with torch.set_grad_enabled(encoder_learns):
        posterior = vae.encode(pixels).latent_dist
    drawn = vae.decode(posterior.sample()).sample
    absolute = (drawn - pixels).abs().mean()
    slopes = sum((a - b).abs().mean() for a, b in zip(_slopes(drawn), _slopes(pixels), strict=True))
    squared = (drawn - pixels).square().mean()
    divergence = posterior.kl().mean() / posterior.mean[0].numel()
    return absolute + 0.5 * slopes + squared + 1e-4 * divergence, squared


def train_autoencoder(
    pixels: NDArray[np.uint8],
    tests: NDArray[np.uint8],
    folder: Path,
    minutes: float,
    start: AutoencoderKL | None = None,
) -> AutoencoderKL:
    """Train for `minutes` in all, resuming what lies in `folder`; returns the averaged VAE.

    `pixels` and `tests` are (N, 64, 64, 3); `start` is trained further instead of a new one. Its
    latents come out with mean 0 and, times SCALING, standard deviation 1.
    """
    stage = Stage("autoencoder", folder, minutes)
    vae = start or new_autoencoder()
    vae.train().requires_grad_(True)
    wide = [p for p in vae.parameters() if p.ndim >= 2 and min(p.shape[:2]) >= _WIDE]
    chosen = {id(p) for p in wide}
    others = [p for p in vae.parameters() if id(p) not in chosen]
    optimizers = [
        Muon(wide, lr=_MUON_LEARNING_RATE, weight_decay=0.02),
        torch.optim.AdamW(others, lr=_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0, fused=True),
    ]
    average = Average(vae, 0.99)
    step = 0
    if state := stage.load():
        vae.load_state_dict(state["weights"])
        average.weights = state["average"]
        for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        step = state["step"]
    data = torch.from_numpy(pixels)
    draw = torch.Generator().manual_seed(SEED + step)
    torch.manual_seed(SEED + step)
    rates = [_MUON_LEARNING_RATE, _LEARNING_RATE]
    errors = []

    def save() -> None:
        stage.save(
            weights=vae.state_dict(),
            average=average.weights,
            optimizers=[optimizer.state_dict() for optimizer in optimizers],
            step=step,
        )

    while (share := stage.share) < 1:
        heat = min(1.0, (step + 1) / 50) * (0.02 + 0.98 * min(1.0, (1 - share) / 0.7))
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * heat
        batch = as_batch(data[torch.randint(len(data), (BATCH,), generator=draw)])
        loss, squared = _loss(vae, batch, share < _ENCODER_UNTIL)
        vae.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        average.update(vae, step)
        errors.append(squared.item())
        if step % _LOG_EVERY == 0:
            decibel = 10 * np.log10(4 / np.mean(errors[-_LOG_EVERY:]))
            stage.log(step=step, decibel=round(float(decibel), 2))
        if stage.due:
            save()
    save()
    vae.load_state_dict(average.weights, strict=False)
    vae.eval().requires_grad_(False)
    whiten(vae, encode(vae, pixels))
    stage.log(step=step, test_decibel=round(peak_signal_to_noise(vae, tests), 2))
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: NDArray[np.uint8]) -> Tensor:
    """(N, 64, 64, 3) -> the latents' means, unscaled, (N, 4, 8, 8)."""
    parts = torch.from_numpy(pixels).split(64)
    return torch.cat([vae.encode(as_batch(part)).latent_dist.mean for part in parts])


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pixels: NDArray[np.uint8]) -> Tensor:
    """(N, 64, 64, 3) -> what the VAE makes of them, (N, 3, 64, 64) in [-1, 1]."""
    latents = encode(vae, pixels).split(64)
    return torch.cat([vae.decode(part).sample for part in latents]).clamp(-1, 1)


def peak_signal_to_noise(vae: AutoencoderKL, pixels: NDArray[np.uint8]) -> float:
    """Mean over pictures, in dB."""
    wanted = as_batch(torch.from_numpy(pixels))
    error = (reconstruct(vae, pixels) - wanted).square().mean((1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


@torch.no_grad()
def whiten(vae: AutoencoderKL, latents: Tensor) -> None:
    """Fold each channel's mean and spread into the convolutions on both sides of the latent.

    Afterwards the latents of these pictures have mean 0 and standard deviation 1 / SCALING, so that
    SD's own scaling factor is right, and the VAE draws what it drew before.
    """
    mean, spread = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    factor = 1 / (SCALING * spread)
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:4] *= factor.view(4, 1, 1, 1)
    into.bias[:4] = (into.bias[:4] - mean) * factor
    into.bias[4:] += 2 * factor.log()
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight /= factor.view(1, 4, 1, 1)
