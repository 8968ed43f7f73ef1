"""DDIM over a lent model, so that pictures look the same in every host.

DDIM (Song et al. 2021, arXiv 2010.02502, equation 12) with eta = 0, "leading" timesteps with an
offset of 1, and classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598), as SD2's own
scheduler does it. Distilled models, the Turbo ones, are drawn in few steps from the last timestep
on ("trailing"), without guidance (Sauer et al. 2023, arXiv 2311.17042).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import WrongModel
from ..files.pictures import fit_to_square
from ..text.conditioning import Conditioning
from .lent_model import LentModel
from .noise import split_prediction

DEFAULT_STEPS = 20
DEFAULT_GUIDANCE = 5.0
DISTILLED_STEPS = 4
"""The most that a distilled model is drawn in."""
BATCH = 64
_LOAD_AGAIN = (
    "its weights are broken, or half precision is too small for them. Load the model's file again"
)


def paired_noise(seed: int, index: int, height: int, width: int) -> Tensor:
    """(1, 4, height/8, width/8) float32: the same for the same seed and index, on every device."""
    generator = torch.Generator().manual_seed((seed << 24) + index)
    return torch.randn(1, 4, height // 8, width // 8, generator=generator)


@torch.no_grad()
def denoise(
    model: LentModel,
    text: Conditioning,
    empty: Conditioning,
    noise: Tensor,
    steps: int = DEFAULT_STEPS,
    guidance: float = DEFAULT_GUIDANCE,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Latents (B, 4, h, w) from `noise` of that shape.

    `text` of B prompts, `empty` of 1 or B with as many chunks; guidance 1 leaves `empty` out. A
    distilled model is drawn at guidance 1, in as many steps as `steps_of` says.
    `on_step` is called after each step and may raise to stop. Raises WrongModel when the text or
    what the UNet makes of it is not finite.
    """
    for part in text.tensors:
        _check_finite(part, "text encoder", "take each LoRA at a smaller strength, such as 1")
    alphas = model.alphas_cumprod.float().cpu()
    times = _timesteps(model, len(alphas), steps_of(model, steps))
    guidance = 1 if model.is_distilled else guidance
    latents = noise.to(model.device)
    empty = empty.expand(len(latents))
    for i, (time, later) in enumerate(times):
        t = torch.full((len(latents),), time, dtype=torch.int64, device=model.device)
        if guidance == 1:
            output = model.predict(latents, t, text)
        else:
            both = model.predict(
                torch.cat([latents, latents]), torch.cat([t, t]), Conditioning.cat([empty, text])
            )
            without, with_text = both.chunk(2)
            output = without + guidance * (with_text - without)
        clean, noise_part = split_prediction(
            output, latents, t, model.alphas_cumprod, model.prediction
        )
        previous = alphas[later]
        latents = previous.sqrt() * clean + (1 - previous).sqrt() * noise_part
        if on_step is not None:
            on_step(i + 1)
    _check_finite(latents, "UNet", _LOAD_AGAIN)
    return latents


def steps_of(model: LentModel, steps: int) -> int:
    """How many steps `denoise` takes where `steps` are asked for."""
    return min(steps, DISTILLED_STEPS) if model.is_distilled else steps


def _timesteps(model: LentModel, count: int, steps: int) -> list[tuple[int, int]]:
    """Each step's timestep and the one that it leads to, of 0..count - 1."""
    if model.is_distilled:
        times = [round(count - i * count / steps) - 1 for i in range(steps)]
        return list(zip(times, [*times[1:], 0], strict=True))
    stride = count // steps
    times = [min(stride * i + 1, count - 1) for i in reversed(range(steps))]
    return [(time, max(time - stride, 0)) for time in times]


def draw_pictures(
    model: LentModel,
    text: Conditioning,
    empty: Conditioning,
    noise: Tensor,
    steps: int = DEFAULT_STEPS,
    guidance: float = DEFAULT_GUIDANCE,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Pictures (B, 3, 8h, 8w) float32 in [-1, 1] on the CPU, drawn in batches; see `denoise`.

    Raises WrongModel when they would not be finite.
    """
    pictures = []
    for start in range(0, len(text), BATCH):
        part = slice(start, start + BATCH)
        unguided = empty if len(empty) == 1 else empty[part]
        latents = denoise(model, text[part], unguided, noise[part], steps, guidance, on_step)
        with torch.no_grad():
            pixels = model.decode_latents(latents)
            _check_finite(pixels, "VAE", _LOAD_AGAIN)
            pictures.append(pixels.clamp(-1, 1).float().cpu())
    return torch.cat(pictures)


def _check_finite(result: Tensor, part: str, remedy: str) -> None:
    if not bool(result.isfinite().all()):
        raise WrongModel(
            f"The model's {part} gives numbers that are not finite, so there is no picture to "
            f"show: {remedy}."
        )


def encode_pictures(model: LentModel, images: Sequence[Tensor]) -> Tensor:
    """The pictures' latents (N, 4, h, w), computed once."""
    rows = [tuple(images[first : first + 4]) for first in range(0, len(images), 4)]
    size, device = model.native_size, model.device
    with torch.no_grad():
        return torch.cat([model.encode_image(fit_to_square(row, size).to(device)) for row in rows])
