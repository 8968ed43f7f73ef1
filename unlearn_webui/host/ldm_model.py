"""AUTOMATIC1111's model as a LentModel: latent diffusion's own classes, hijacked by the host."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from modules import devices, sd_unet, shared
from torch import Tensor

from unlearn_core.errors import WrongModel
from unlearn_core.models.families import SD2, Seen, prediction_named, recognise
from unlearn_core.text.conditioning import Conditioning

from .open_clip_names import count_layers, hugging_face_weights
from .webui_model import WebuiModel, check_unet


class LdmModel(WebuiModel):
    """Lends `shared.sd_model` of AUTOMATIC1111."""

    def __init__(self, model: Any) -> None:
        """Check the model; nothing is copied or changed. Raises WrongModel."""
        _refuse_options()
        self.host_model, self._tower = model, _text_tower(model)
        self._width = int(self._tower.positional_embedding.shape[1])
        self.unet = model.model.diffusion_model
        self.family = check_unet(self.unet, self._width)
        layer = _conditioning_layer(model.cond_stage_model.wrapped, self._tower)
        self.conditioning_layers = (layer,)
        self.prediction = prediction_named(model.parameterization)
        self.device = torch.device(devices.device)
        self.compute_dtype = devices.dtype_unet
        self._read_ldm_sizes()
        self.alphas_cumprod = model.alphas_cumprod.detach().to("cpu", torch.float32, copy=True)
        stated = getattr(model, "image_size", None)
        self.native_size = self.family.native_size(stated, self.prediction)
        if getattr(model, "lowvram", False):
            self.notes = ("The WebUI runs with --medvram: this works, and takes longer.",)

    def text_encoder_weights(self) -> dict[str, Tensor]:
        """See LentModel; OpenCLIP's weights under CLIPTextModel's names."""
        return hugging_face_weights(self._tower.state_dict())

    @torch.no_grad()
    def make_bare(self) -> None:
        """Run each part once: the host takes LoRAs out of a layer when it is next used."""
        with devices.autocast():
            self.host_model.get_learned_conditioning([""])
        latents = torch.zeros(1, 4, 8, 8, device=self.device)
        text = torch.zeros(1, 77, self._width, device=self.device)
        step = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._run_unet(latents, step, Conditioning(text))

    def _computing(self) -> AbstractContextManager[Any]:
        computing: AbstractContextManager[Any] = devices.autocast()
        return computing

    def _run_unet(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        with devices.autocast():
            # As a dict the host casts the text itself, which --precision half needs.
            output: Tensor = self.host_model.apply_model(
                latents, timesteps, {"c_crossattn": [text.tokens]}
            )
        return output.float()

    def _encode(self, pixels: Tensor) -> Tensor:
        model = self.host_model
        with devices.without_autocast():
            found = model.encode_first_stage(pixels.to(self.device, devices.dtype_vae))
            mean = found.mode() if hasattr(found, "mode") else found
            latents: Tensor = model.get_first_stage_encoding(mean)
        return latents

    def _decode(self, latents: Tensor) -> Tensor:
        with devices.without_autocast():
            pixels: Tensor = self.host_model.decode_first_stage(
                latents.to(self.device, devices.dtype_vae)
            )
        return pixels


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


def _text_tower(model: Any) -> Any:
    """The open_clip model inside; raises WrongModel for any other text encoder."""
    if hasattr(model, "conditioner"):
        recognise(Seen(text_encoders=2))
    wrapped = getattr(model.cond_stage_model, "wrapped", model.cond_stage_model)
    transformer = getattr(wrapped, "transformer", None)
    config = getattr(transformer, "config", None)
    if config is not None:
        recognise(Seen(text_width=int(config.hidden_size)))
    tower = getattr(wrapped, "model", None)
    if getattr(tower, "positional_embedding", None) is None:
        recognise(Seen(architecture=f"a model with the text encoder {type(wrapped).__name__}"))
    if model.model.conditioning_key != "crossattn":
        kind = f"an inpainting, depth or unCLIP model ({model.model.conditioning_key!r})"
        recognise(Seen(architecture=kind))
    return tower


def _conditioning_layer(embedder: Any, tower: Any) -> int:
    """SD2 stops one layer early; the host ignores clip skip here."""
    layer = count_layers(tower.state_dict()) - 1 - int(embedder.layer_idx)
    if layer > SD2.towers[0].last_layer:
        raise WrongModel(
            f"This checkpoint uses layer {layer} of its text encoder, which {SD2.name} never does "
            "and no LoRA file can name."
        )
    return layer
