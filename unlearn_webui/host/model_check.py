"""Whether the loaded checkpoint is one of Stable Diffusion 2, told by its structure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unlearn_core.errors import WrongModel

_WHOLE_NUMBERS = (torch.float32, torch.float16, torch.bfloat16)
_OTHER_INPUTS = {9: "an inpainting model", 5: "a depth model", 7: "an upscaler"}


@dataclass(frozen=True)
class Checkpoint:
    """What can be said about the host's checkpoint before a run."""

    name: str
    refusal: str = ""
    """Why it can't be used; empty where it can."""
    notes: tuple[str, ...] = ()
    """What the user should know before."""
    loaded: bool = True
    """False while the host has yet to load it; then it can't be judged."""


def check_unet(unet: nn.Module, text_width: int) -> None:
    """Raise WrongModel unless the UNet draws from noise and text of this width alone.

    `unet` has latent diffusion's layout: `input_blocks`, and cross-attention named `attn2`.
    """
    blocks: Any = unet.input_blocks
    channels = int(blocks[0][0].weight.shape[1])
    if channels != 4:
        kind = _OTHER_INPUTS.get(channels, "another kind of model")
        raise WrongModel(
            f"This is {kind}: its UNet takes {channels} channels, and 4 are needed. Load the plain "
            "text-to-image checkpoint of Stable Diffusion 2."
        )
    if getattr(unet, "num_classes", None) is not None:
        raise WrongModel(
            "This is a variant of Stable Diffusion with extra conditions (such as unCLIP). Load a "
            "plain text-to-image checkpoint of Stable Diffusion 2."
        )
    width = _context_width(unet)
    if width != text_width:
        raise WrongModel(
            f"The UNet expects text of width {width}, and the text encoder is {text_width} wide: "
            "these are not the parts of one Stable Diffusion 2 checkpoint."
        )
    small = sorted({str(p.dtype) for p in unet.parameters() if p.dtype not in _WHOLE_NUMBERS})
    if small:
        raise WrongModel(
            f"The UNet's weights are stored in few bits ({', '.join(small)}), through which no "
            "gradient passes. Turn FP8 weight (A1111: Settings, Optimizations) or Diffusion in Low "
            "Bits (Forge) off and load the checkpoint again."
        )


def refuse_other_family(width: int, layers: int, towers: int) -> None:
    """Raise WrongModel for the text encoders of SD 1.x, SDXL and newer families."""
    if towers > 1:
        raise WrongModel(
            f"This is SDXL or a newer family: it has {towers} text encoders, Stable Diffusion 2 "
            "has one. Load a Stable Diffusion 2 checkpoint."
        )
    if (width, layers) == (768, 12):
        raise WrongModel(
            "This is SD 1.x: its text width is 768, Stable Diffusion 2 has 1024. Load a Stable "
            "Diffusion 2 checkpoint."
        )


def _context_width(unet: nn.Module) -> int:
    for name, part in unet.named_modules():
        if name.endswith("attn2.to_k"):
            weight: Any = part.weight
            return int(weight.shape[1])
    raise WrongModel("The UNet has no cross-attention: this is not Stable Diffusion 2.")
