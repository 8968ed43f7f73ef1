"""What a host lends to the engine: its model."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..progress import RunMonitor, stop_if_asked
from ..text.conditioning import Conditioning
from ..text.text_encoder import TextEncoder
from .devices import text_products_dtype
from .families import Family, Prediction
from .unet_sizes import UnetSizes


class LentModel(Protocol):
    """A Stable Diffusion model as the host has it loaded.

    The UNet and the VAE are frozen, so a call is enough and nothing is copied; the text encoder is
    lent as its weights, because each host holds another class of it.
    """

    family: Family
    device: torch.device
    compute_dtype: torch.dtype
    """Dtype of UNet activations; for the text encoder see devices.text_products_dtype."""
    prediction: Prediction
    alphas_cumprod: Tensor
    """(1000,) float32, the product of 1 - beta up to each timestep, decreasing in (0, 1)."""
    native_size: int
    """Edge of a picture in pixels: 64 for the demo model, 512 for SD2-base, 768 for SD2."""
    conditioning_layers: tuple[int, ...]
    """For each text tower the index of the layer that conditions the UNet: 22 on SD2, the
    penultimate one; 10 and 30 on SDXL."""
    is_distilled: bool = False
    """Whether it draws in a few steps without guidance, as SD-Turbo and SDXL-Turbo do."""
    unet_sizes: UnetSizes | None = None
    """None where there is no UNet, or its sizes are not known."""
    checkpointing: bool = False
    """Whether the UNet's blocks run again on the way back instead of keeping what they need for it.
    The engine sets it for the time of a run."""

    def free_memory(self) -> int | None:
        """Bytes that a run may still take once the UNet is where it computes; None: unknown."""
        return None

    def text_encoder_weights(self) -> dict[str, Tensor]:
        """The text encoder's weights under Hugging Face CLIPTextModel names.

        Names start with `text_model.`, where there are two towers with `te1.` or `te2.` before it,
        and `te2.text_projection.weight` (width, width) is with them. Any float dtype, on any
        device. They are read and copied, never written to.
        """

    def predict(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """The UNet's output (epsilon or v, see `prediction`), differentiable in `text`.

        latents (B, 4, h, w) float32 and timesteps (B,) int64 in 0..999; text of B prompts. Returns
        (B, 4, h, w) float32.
        """

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, 8h, 8w) float32 in [-1, 1] -> (B, 4, h, w) float32, scaled as the UNet wants."""

    def decode_latents(self, latents: Tensor) -> Tensor:
        """(B, 4, h, w) float32 -> (B, 3, 8h, 8w) float32 in [-1, 1]."""


class Stoppable(LentModel):
    """A lent model that asks before each prediction whether to stop, and then raises Cancelled.

    Without a gradient no more than `drawn` pictures go through its UNet together.
    """

    def __init__(self, model: LentModel, monitor: RunMonitor, drawn: int | None = None) -> None:
        """Lend `model` on; `drawn` None sets no limit."""
        self._model, self._monitor, self._drawn = model, monitor, drawn
        self.family, self.device, self.compute_dtype = (
            model.family, model.device, model.compute_dtype
        )  # fmt: skip
        self.prediction, self.alphas_cumprod = model.prediction, model.alphas_cumprod
        self.native_size, self.conditioning_layers = model.native_size, model.conditioning_layers
        self.unet_sizes, self.is_distilled = model.unet_sizes, model.is_distilled

    def free_memory(self) -> int | None:
        """See LentModel."""
        return self._model.free_memory()

    def text_encoder_weights(self) -> dict[str, Tensor]:
        """See LentModel."""
        return self._model.text_encoder_weights()

    def predict(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """See LentModel; raises Cancelled."""
        rows = self._drawn or len(latents)
        if torch.is_grad_enabled() and text.requires_grad:
            rows = len(latents)
        outputs = []
        for start in range(0, len(latents), rows):
            stop_if_asked(self._monitor)
            part = slice(start, start + rows)
            outputs.append(self._model.predict(latents[part], timesteps[part], text[part]))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """See LentModel."""
        return self._model.encode_image(pixels)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """See LentModel."""
        return self._model.decode_latents(latents)


def build_encoder(model: LentModel, weights: dict[str, Tensor] | None = None) -> TextEncoder:
    """A private copy of the lent model's text encoder, on its device; raises WrongModel.

    `weights` are the model's or a change of them, where the caller has them already.
    """
    weights = model.text_encoder_weights() if weights is None else weights
    products = text_products_dtype(model.device)
    return TextEncoder.of(
        model.family.towers, weights, model.conditioning_layers, model.device, products
    )
