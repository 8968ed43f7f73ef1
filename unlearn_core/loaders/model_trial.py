"""One small step through a model that was put together from a folder's configs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UnlearnError, WrongModel
from ..models.lent_model import LentModel
from ..text.conditioning import Conditioning
from ..text.tokenizer import CHUNK

_EDGE = 8


@torch.no_grad()
def try_once(model: LentModel, text_width: int, folder: Path) -> None:
    """Raise WrongModel if UNet or VAE can't compute what one of its family does.

    The libraries take many an odd number in a config and stumble over it in the first picture. At
    this size a step costs little more than reading the weights once.
    """
    latents = torch.linspace(-1, 1, 4 * _EDGE**2).view(1, 4, _EDGE, _EDGE).to(model.device)
    pixels = torch.linspace(-1, 1, 3 * (8 * _EDGE) ** 2).view(1, 3, 8 * _EDGE, 8 * _EDGE)
    text = torch.linspace(-1, 1, CHUNK * text_width).view(1, CHUNK, text_width).to(model.device)
    step = torch.tensor([500], device=model.device)
    steps: list[tuple[str, Tensor, Callable[[], Tensor]]] = [
        ("unet", latents, lambda: model.predict(latents, step, Conditioning(text))),
        ("vae", pixels, lambda: model.decode_latents(latents)),
        ("vae", latents, lambda: model.encode_image(pixels.to(model.device))),
    ]
    for part, expected, compute in steps:
        try:
            found = compute()
        except (UnlearnError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:  # whatever torch raises for what an odd config has made
            reason = " ".join(str(error).split())[:300]
            raise WrongModel(
                f"{folder}: what {part}/config.json describes can't compute "
                f"({type(error).__name__}: {reason}). Restore the file from where the model comes "
                "from."
            ) from error
        if found.shape != expected.shape:
            raise WrongModel(
                f"{folder}: what {part}/config.json describes gives {tuple(found.shape)}, not "
                f"{tuple(expected.shape)}. Restore the file from where the model comes from."
            )
        if not bool(found.isfinite().all()):
            raise WrongModel(
                f"{folder}: its {part} gives numbers that are not finite: {part}/config.json or "
                "the weights are broken, or half precision is too small for them."
            )
