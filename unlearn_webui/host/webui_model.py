"""What both kinds of WebUI models share: a memory limit, LoRAs taken out, checks of the UNet.

Knows torch only; ldm_model.py and forge_model.py know the hosts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from unlearn_core.errors import TrainingFailed, WrongModel
from unlearn_core.models.adapter import ModelAdapter
from unlearn_core.models.families import Family, Seen, recognise
from unlearn_core.settings import presets_where

_WHOLE_NUMBERS = (torch.float32, torch.float16, torch.bfloat16)


class WebuiModel(ModelAdapter):
    """Lends the checkpoint that the WebUI has loaded.

    Use it inside `prepared()`, with the host's queue lock held.
    """

    vae_remedy = "Start the WebUI with --no-half-vae."
    notes: tuple[str, ...] = ()
    """Sentences that the user should read before a run."""
    host_model: Any
    """What the host calls sd_model."""
    memory_limit: int = 0
    """Bytes of GPU memory that this process may take; 0 is no limit."""

    def free_memory(self) -> int | None:
        """See LentModel; no more than the user's limit leaves."""
        free = super().free_memory()
        if free is None or not self.memory_limit:
            return free
        return max(0, min(free, self.memory_limit - torch.cuda.memory_allocated(self.device)))

    @abstractmethod
    def make_bare(self) -> None:
        """Take every LoRA that the host has merged into the weights out of them again."""

    def prepared(self) -> AbstractContextManager[Any]:
        """What the host's UNet needs for the time of a run so that a gradient can pass."""
        return nullcontext()


def check_unet(unet: nn.Module, text_width: int) -> Family:
    """The family of a UNet that draws from noise and text of this width alone.

    `unet` has latent diffusion's layout: `input_blocks`, and cross-attention named `attn2`. Raises
    WrongModel for another one, and for one whose weights are stored in few bits.
    """
    blocks: Any = unet.input_blocks
    family = recognise(
        Seen(
            text_width=text_width,
            context_width=_context_width(unet),
            channels=int(blocks[0][0].weight.shape[1]),
            extra_conditions=getattr(unet, "num_classes", None) is not None,
        )
    )
    small = sorted({str(p.dtype) for p in unet.parameters() if p.dtype not in _WHOLE_NUMBERS})
    if small:
        raise WrongModel(
            f"The UNet's weights are stored in few bits ({', '.join(small)}), through which no "
            "gradient passes. Turn FP8 weight (A1111: Settings, Optimizations) or Diffusion in Low "
            "Bits (Forge) off and load the checkpoint again."
        )
    return family


def _context_width(unet: nn.Module) -> int | None:
    for name, part in unet.named_modules():
        if name.endswith("attn2.to_k"):
            weight: Any = part.weight
            return int(weight.shape[1])
    return None


@contextmanager
def memory_explained() -> Iterator[None]:
    """Turn running out of GPU memory into a TrainingFailed that says what to do."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingFailed(
            f"Out of GPU memory. Choose the preset {presets_where(needs_unet=False)}, "
            "give fewer pictures, raise the memory limit in Settings, SD Unlearn, or start the "
            "WebUI with --medvram."
        ) from error
