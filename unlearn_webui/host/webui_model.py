"""What both kinds of WebUI models share as a LentModel: memory, gradients, checks of the results.

Knows torch only; ldm_model.py and forge_model.py know the hosts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_core.errors import TrainingFailed
from unlearn_core.models.devices import free_memory
from unlearn_core.models.gradients import HalfGradient, check_gradient, recomputed
from unlearn_core.models.lent_model import LentModel, Prediction
from unlearn_core.models.unet_sizes import UnetSizes

_STOCK_SIZES = (None, 32, 64)
"""What SD2's configs name as the latents' edge, whatever the model was trained at."""


class WebuiModel(LentModel, ABC):
    """Lends the checkpoint that the WebUI has loaded; its weights are left as they were.

    Use it inside `prepared()`, with the host's queue lock held.
    """

    notes: tuple[str, ...] = ()
    """Sentences that the user should read before a run."""
    host_model: Any
    """What the host calls sd_model."""
    unet: nn.Module
    memory_limit: int = 0
    """Bytes of GPU memory that this process may take; 0 is no limit."""

    _at_once: int = 1024
    """Rows that go through the UNet together without gradient; halved when memory runs out."""
    _gradient_checked: bool = False

    def free_memory(self) -> int | None:
        """See LentModel; no more than the user's limit leaves."""
        free = free_memory(self.device, self.unet)
        if free is None or not self.memory_limit:
            return free
        return max(0, min(free, self.memory_limit - torch.cuda.memory_allocated(self.device)))

    def _read_sizes(self) -> None:
        """What `unet_sizes` is, from the weights of `unet`; `compute_dtype` must be known."""
        weights = dict(self.unet.named_parameters())
        converts = any(weight.dtype != self.compute_dtype for weight in weights.values())
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        self.unet_sizes = UnetSizes.from_ldm(shapes, converts)

    @abstractmethod
    def text_encoder_weights(self) -> dict[str, Tensor]:
        """See LentModel."""

    @abstractmethod
    def make_bare(self) -> None:
        """Take every LoRA that the host has merged into the weights out of them again."""

    @abstractmethod
    def prepared(self) -> AbstractContextManager[None]:
        """Inside, the UNet can be differentiated; afterwards the host's model is as it was."""

    @abstractmethod
    def _run_unet(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """The host's own UNet, float32 out; what it is differentiable in is `text`."""

    @abstractmethod
    def _encode(self, pixels: Tensor) -> Tensor:
        """(1, 3, 8h, 8w) float32 in [-1, 1] on any device -> the mean, scaled for the UNet."""

    @abstractmethod
    def _decode(self, latents: Tensor) -> Tensor:
        """(1, 4, h, w) float32 on any device -> (1, 3, 8h, 8w) about [-1, 1]."""

    def predict(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """See LentModel; in parts that fit into memory where no gradient is asked for."""
        given = (latents.to(self.device), timesteps.to(self.device), text.to(self.device))
        if not (torch.is_grad_enabled() and text.requires_grad):
            with torch.no_grad():
                return self._in_parts(*given)
        if not self._gradient_checked:
            tolerance = 0.1 if self.compute_dtype == torch.float32 else 0.3
            one = (given[0][:1].detach(), given[1][:1], given[2][:1].detach())
            check_gradient(self._scaled, *one, tolerance)
            self._gradient_checked = True
        with recomputed(self.unet, self._computing) if self.recomputes else nullcontext():
            return self._scaled(*given)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """See LentModel; one picture after the other, the mean and not a draw."""
        return self._one_by_one(self._encode, pixels, "encoding a picture")

    def decode_latents(self, latents: Tensor) -> Tensor:
        """See LentModel; one picture after the other."""
        return self._one_by_one(self._decode, latents, "drawing a picture").clamp(-1, 1)

    def _computing(self) -> AbstractContextManager[Any]:
        """The host's autocast, where it has one."""
        return nullcontext()

    def _scaled(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        half = HalfGradient(self.compute_dtype)
        return half.at_output(self._run_unet(latents, timesteps, half.at_text(text)))

    def _in_parts(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
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
        return torch.cat(outputs)

    @torch.no_grad()
    def _one_by_one(self, convert: Callable[[Tensor], Tensor], batch: Tensor, doing: str) -> Tensor:
        results = [convert(row).detach().to(self.device, torch.float32) for row in batch.split(1)]
        whole = torch.cat(results)
        if not bool(whole.isfinite().all()):
            raise TrainingFailed(
                f"The VAE gave numbers that are not finite while {doing}; half precision is too "
                "small for it. Start the WebUI with --no-half-vae."
            )
        return whole


def native_size(stated: int | None, prediction: Prediction) -> int:
    """Edge of a picture in pixels, from the latents' edge that a config states, if it does.

    SD2's own configs state the same for 512 and 768 pixels; there v means 768.
    """
    if stated in _STOCK_SIZES:
        stated = 96 if prediction == "v" else 64
    assert stated is not None
    return 8 * stated


@contextmanager
def memory_explained() -> Iterator[None]:
    """Turn running out of GPU memory into a TrainingFailed that says what to do."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingFailed(
            "Out of GPU memory. Choose the preset quick, give fewer pictures, raise the memory "
            "limit in Settings, SD Unlearn, or start the WebUI with --medvram."
        ) from error
