"""What both kinds of WebUI models share: a memory limit, text encoders, checks, picture sizes.

Knows torch only; ldm_model.py and forge_model.py know the hosts.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_core.errors import TrainingFailed, WrongModel
from unlearn_core.models.adapter import ModelAdapter
from unlearn_core.models.families import Family, Seen, recognise
from unlearn_core.settings import presets_where
from unlearn_core.text.conditioning import Conditioning

from .text_weights import WHOLE_NUMBERS

IS_TURBO = "By its name this is a Turbo model: it is drawn in a few steps, without guidance."
_SINES = 256
"""That SDXL's UNet takes for each number of a picture's size."""
_LONGEST = 10_000
"""Period of the slowest of these sines, over 2 pi."""


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

    @abstractmethod
    def _weights_of_each(self) -> Iterable[Mapping[str, Tensor]]:
        """Copies of each text encoder's weights under CLIPTextModel's names."""

    def text_encoder_weights(self) -> dict[str, Tensor]:
        """See LentModel."""
        return {
            tower.prefix + name: value
            for tower, weights in zip(self.family.towers, self._weights_of_each(), strict=True)
            for name, value in weights.items()
        }

    def _set_conditioning(self, layers: Callable[[int], Sequence[int]], skip: int) -> None:
        """Set what follows from the layer of each text encoder at a Clip skip; raises WrongModel.

        `self.family` must be set.
        """
        self.conditioning_layers = tuple(layers(skip))
        for tower, layer in zip(self.family.towers, self.conditioning_layers, strict=True):
            if not 0 <= layer <= tower.conditioning_layer:
                raise WrongModel(
                    f"The WebUI takes layer {layer} of a text encoder, and one of "
                    f"{self.family.name} can give layers 0 to {tower.conditioning_layer}: choose "
                    "another Clip skip or another checkpoint."
                )
        if tuple(layers(1)) != self.conditioning_layers:
            self.notes += (f"Made with Clip skip {skip}: draw with the same Clip skip.",)

    def _vector(self, latents: Tensor, text: Conditioning) -> Tensor | None:
        """What SDXL's UNet takes beside the tokens: (B, width + 1536); None for other families.

        The pooled text, then sines of the picture's size.
        """
        if text.pooled is None:
            return None
        height, width = (self.family.vae_factor * edge for edge in latents.shape[-2:])
        sizes = size_sines(height, width).to(text.pooled)
        return torch.cat([text.pooled, sizes.expand(len(text.pooled), -1)], 1)


def size_sines(height: int, width: int) -> Tensor:
    """What SDXL's UNet takes of the size of a picture that was not cropped: (1536,) float32.

    Original size, crop and target size, height before width; 256 cosines and sines of each number.
    Podell et al. 2023, arXiv 2307.01952, section 2.2.
    """
    sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
    steps = torch.arange(_SINES // 2) / (_SINES // 2)
    angles = sizes[:, None] * torch.exp(-math.log(_LONGEST) * steps)
    return torch.cat([angles.cos(), angles.sin()], 1).flatten()


def check_unet(
    unet: nn.Module, text_widths: Sequence[int], activations: Sequence[str] = ()
) -> Family:
    """The family of a UNet and of text encoders of these widths and, if known, activations.

    `unet` has latent diffusion's layout: `input_blocks`, and cross-attention named `attn2`. Raises
    WrongModel for any other, one that draws from more than noise and text, and one whose weights
    are stored in few bits.
    """
    blocks: Any = unet.input_blocks
    takes_more = getattr(unet, "num_classes", None) is not None
    one = len(text_widths) == 1
    family = recognise(
        Seen(
            text_encoders=len(text_widths),
            text_width=sum(text_widths),
            activations=tuple(activations),
            context_width=_context_width(unet),
            channels=int(blocks[0][0].weight.shape[1]),
            pooled=None if one else takes_more,
            extra_conditions=one and takes_more,
        )
    )
    small = sorted({str(p.dtype) for p in unet.parameters() if p.dtype not in WHOLE_NUMBERS})
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
