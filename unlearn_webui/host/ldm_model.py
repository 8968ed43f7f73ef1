"""AUTOMATIC1111's model as a LentModel: latent diffusion's own classes, hijacked by the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from modules import devices, sd_unet, shared
from torch import Tensor, nn

from unlearn_core.errors import WrongModel
from unlearn_core.models.families import prediction_named
from unlearn_core.text.conditioning import Conditioning

from .ldm_text import text_encoders
from .settings import clip_skip
from .webui_model import WebuiModel, check_unet


class LdmModel(WebuiModel):
    """Lends `shared.sd_model` of AUTOMATIC1111."""

    def __init__(self, model: Any) -> None:
        """Check the model; nothing is copied or changed. Raises WrongModel."""
        _refuse_options()
        self.host_model, self._texts = model, text_encoders(model)
        self.unet = model.model.diffusion_model
        self._widths = [text.width for text in self._texts]
        activations = [name for text in self._texts for name in text.activations]
        self.family = check_unet(self.unet, self._widths, activations)
        self._set_conditioning(lambda skip: [text.layer(skip) for text in self._texts], clip_skip())
        self.prediction = prediction_named(model.parameterization)
        self.device = torch.device(devices.device)
        self.compute_dtype = devices.dtype_unet
        self._read_ldm_sizes()
        self.alphas_cumprod = model.alphas_cumprod.detach().to("cpu", torch.float32, copy=True)
        stated = getattr(model, "image_size", None)
        self.native_size = self.family.native_size(stated, self.prediction)
        if getattr(model, "lowvram", False):
            self.notes += ("The WebUI runs with --medvram: this works, and takes longer.",)

    def _weights_of_each(self) -> Iterable[dict[str, Tensor]]:
        return (text.weights() for text in self._texts)

    @torch.no_grad()
    def make_bare(self) -> None:
        """Run each part once: the host takes LoRAs out of a layer when it is next used."""
        with devices.autocast():
            self.host_model.get_learned_conditioning([""])
        widths = self._widths
        tokens = torch.zeros(1, 77, sum(widths), device=self.device)
        pooled = torch.zeros(1, widths[-1], device=self.device) if self.family.pooled else None
        latents = torch.zeros(1, self.family.channels, 8, 8, device=self.device)
        step = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._run_unet(latents, step, Conditioning(tokens, pooled))

    def _computing(self) -> AbstractContextManager[Any]:
        computing: AbstractContextManager[Any] = devices.autocast()
        return computing

    def _run_unet(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        # As a dict the host casts the text itself, which --precision half needs.
        given: dict[str, Any] = {"c_crossattn": [text.tokens]}
        vector = self._vector(latents, text)
        if vector is not None:
            given = {"crossattn": text.tokens, "vector": vector}
        with devices.autocast():
            output: Tensor = self.host_model.apply_model(latents, timesteps, given)
        return output.float()

    def _encode(self, pixels: Tensor) -> Tensor:
        model = self.host_model
        with devices.without_autocast(), _moments(model.first_stage_model) as moments:
            found = model.encode_first_stage(pixels.to(self.device, devices.dtype_vae))
        if isinstance(found, Tensor):  # SDXL's: a draw, scaled already
            mean: Tensor = moments[0].chunk(2, 1)[0]
            return mean * float(model.scale_factor)
        latents: Tensor = model.get_first_stage_encoding(found.mode())
        return latents

    def _decode(self, latents: Tensor) -> Tensor:
        with devices.without_autocast():
            pixels: Tensor = self.host_model.decode_first_stage(
                latents.to(self.device, devices.dtype_vae)
            )
        return pixels


@contextmanager
def _moments(vae: nn.Module) -> Iterator[list[Tensor]]:
    """What the VAE's encoder ends with inside: mean and logarithm of the variance."""
    seen: list[Tensor] = []
    last: Any = vae.quant_conv
    hook = last.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        hook.remove()


def _refuse_options() -> None:
    if getattr(shared.cmd_opts, "lowvram", False):
        raise WrongModel(
            "The WebUI runs with --lowvram, which moves the UNet in pieces, so no gradient passes "
            "through it. Start it with --medvram instead."
        )
    if getattr(devices, "fp8", False):
        raise WrongModel(
            "The weights are stored in FP8. Turn it off (Settings, Optimizations, FP8 weight) and "
            "load the checkpoint again."
        )
    if getattr(sd_unet, "current_unet", None) is not None:
        raise WrongModel(
            "Another UNet (such as TensorRT) draws instead of the checkpoint's own, and no "
            "gradient passes through it. Set SD Unet to None in Settings, Stable Diffusion."
        )
