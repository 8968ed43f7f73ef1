"""The base of every host's adapter: it knows the mathematics, an adapter knows its host.

An adapter sets the attributes of `LentModel` and `unet`, and fills in `text_encoder_weights`,
`_run_unet`, `_encode` and `_decode`; docs/writing-an-adapter.md shows one.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingFailed
from ..text.conditioning import Conditioning
from .devices import free_memory
from .gradients import LossScaling, check_gradient, checkpointed, frozen
from .lent_model import LentModel
from .unet_sizes import UnetSizes

TOLERANCE, HALF_TOLERANCE = 0.1, 0.3
"""Relative error of a gradient against differences of the prediction: in float32, in half types."""
PIXELS_AT_ONCE = 512 * 512
"""That go through the VAE together; a larger picture goes alone."""


class ModelAdapter(LentModel, ABC):
    """A host's model as a LentModel; its weights and flags are afterwards what they were."""

    unet: nn.Module
    """What `_run_unet` runs: its blocks are checkpointed, its parameters frozen meanwhile."""
    checks_gradient: bool = True
    """Whether the first gradient is compared with differences: hosts choose kernels without one."""
    vae_remedy: str = "Load the VAE in float32 or bfloat16."
    """What helps when half precision is too small for the VAE."""

    _at_once: int = 1024
    """Rows that go through the UNet together without gradient; halved when memory runs out."""
    _gradient_checked: bool = False

    @abstractmethod
    def text_encoder_weights(self) -> dict[str, Tensor]:
        """See LentModel."""

    @abstractmethod
    def _run_unet(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """The host's own UNet as LentModel.predict describes it; all tensors are on `device`."""

    @abstractmethod
    def _encode(self, pixels: Tensor) -> Tensor:
        """The VAE's mean, scaled, as LentModel.encode_image describes it."""

    @abstractmethod
    def _decode(self, latents: Tensor) -> Tensor:
        """As LentModel.decode_latents describes it; what lies beyond [-1, 1] is cut off after."""

    def free_memory(self) -> int | None:
        """See LentModel."""
        return free_memory(self.device, self.unet)

    def predict(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """See LentModel; in parts that fit into memory where no gradient is asked for."""
        given = (
            latents.to(self.device),
            timesteps.to(self.device),
            text.map(lambda tensor: tensor.to(self.device)),
        )
        if not (torch.is_grad_enabled() and (text.requires_grad or latents.requires_grad)):
            with torch.no_grad():
                return self._in_parts(*given)
        if self.checks_gradient and not self._gradient_checked:
            self._check_gradient(given[0][:1].detach(), given[1][:1], given[2][:1])
            self._gradient_checked = True
        with checkpointed(self.unet, self._computing) if self.checkpointing else nullcontext():
            return self._with_gradient(*given)

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """See LentModel; the mean and not a draw."""
        rows = _rows_at_once(pixels.shape[-2] * pixels.shape[-1])
        return self._through_vae(self._encode, pixels.split(rows), "encoding a picture")

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """See LentModel."""
        factor = self.family.vae_factor
        rows = _rows_at_once(factor**2 * latents.shape[-2] * latents.shape[-1])
        return self._through_vae(self._decode, latents.split(rows), "drawing a picture").clamp(
            -1, 1
        )

    def _computing(self) -> AbstractContextManager[Any]:
        """The host's autocast, where it has one; entered anew when blocks run again."""
        return nullcontext()

    def _read_ldm_sizes(self) -> None:
        """Set `unet_sizes` from the weights of a `unet` in latent diffusion's layout."""
        weights = dict(self.unet.named_parameters())
        converts = any(weight.dtype != self.compute_dtype for weight in weights.values())
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        self.unet_sizes = UnetSizes.from_ldm(shapes, converts)

    def _with_gradient(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        scaling = LossScaling(self.compute_dtype)
        with frozen(self.unet):
            output = self._run_unet(latents, timesteps, text.map(scaling.at_text))
        return scaling.at_output(output)

    def _check_gradient(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> None:
        """Raise TrainingFailed if the host's UNet gives a wrong gradient."""
        tolerance = TOLERANCE if self.compute_dtype == torch.float32 else HALF_TOLERANCE

        def predict(tokens: Tensor) -> Tensor:
            return self._with_gradient(latents, timesteps, dataclasses.replace(text, tokens=tokens))

        check_gradient(predict, text.tokens, tolerance)

    def _in_parts(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        outputs: list[Tensor] = []
        start = 0
        while start < len(latents):
            rows = slice(start, start + self._at_once)
            try:
                outputs.append(self._run_unet(latents[rows], timesteps[rows], text[rows]))
            except torch.cuda.OutOfMemoryError:
                tried = len(latents[rows])
                if tried == 1:
                    raise
                self._at_once = tried // 2
                torch.cuda.empty_cache()
            else:
                start += self._at_once
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _through_vae(
        self, convert: Callable[[Tensor], Tensor], parts: tuple[Tensor, ...], doing: str
    ) -> Tensor:
        results = [convert(part).detach().to(self.device, torch.float32) for part in parts]
        whole = torch.cat(results)
        if not bool(whole.isfinite().all()):
            raise TrainingFailed(
                f"The VAE gave numbers that are not finite while {doing}; half precision is too "
                f"small for it. {self.vae_remedy}"
            )
        return whole


def _rows_at_once(pixels: int) -> int:
    return max(1, PIXELS_AT_ONCE // pixels)


def alphas_of(sigmas: Tensor) -> Tensor:
    """alphas_cumprod (1000,) float32 on the CPU, from noise levels sigma = sqrt((1 - a) / a).

    Karras et al. 2022, arXiv 2206.00364, appendix C.3.4.
    """
    return 1 / (1 + sigmas.detach().to("cpu", torch.float32, copy=True) ** 2)
