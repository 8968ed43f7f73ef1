"""Forge's model as a LentModel; reForge's and Forge Classic's where they differ.

Tried on Forge; reForge and Classic were only read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from modules import shared
from torch import Tensor

from unlearn_core.errors import WrongModel
from unlearn_core.loaders.model_files import TEXT_PREFIX
from unlearn_core.models.adapter import alphas_of
from unlearn_core.models.families import (
    SD2,
    Prediction,
    Seen,
    prediction_named,
    recognise,
)
from unlearn_core.models.gradients import make_plain, residuals_kept
from unlearn_core.text.conditioning import Conditioning

from .webui_model import WebuiModel, check_unet

_MEMORY = ("backend.memory_management", "ldm_patched.modules.model_management")
_POSITIONS = f"{TEXT_PREFIX}embeddings.position_embedding.weight"
_REGULATION = "model_vae_regulation"
_TRAINING_MEMORY = 4
"""Memory of a step with gradient over the host's estimate for sampling."""


class ForgeModel(WebuiModel):
    """Lends `shared.sd_model.forge_objects`, without the LoRAs of the last picture."""

    def __init__(self, model: Any) -> None:
        """Check the model; nothing is copied or changed. Raises WrongModel."""
        self.host_model = model
        self._objects = model.forge_objects_original.shallow_copy()
        self._patcher = self._objects.unet
        self._core = self._patcher.model
        self.unet = self._core.diffusion_model
        self._text = _text_encoder(self._objects.clip)
        weights = self._text.state_dict()
        self.family = check_unet(self.unet, int(weights[_POSITIONS].shape[1]))
        predictor = _predictor(self._core)
        self.prediction = _prediction(predictor)
        self.alphas_cumprod = alphas_of(predictor.sigmas)
        self.device = torch.device(self._patcher.load_device)
        self.compute_dtype = _compute_dtype(self._core)
        self._read_ldm_sizes()
        config = getattr(self._core, "config", None) or getattr(self._core, "model_config", None)
        stated = getattr(config, "unet_config", {}).get("image_size")
        self.native_size = self.family.native_size(stated, self.prediction)
        layer = _conditioning_layer(model, weights)
        self.conditioning_layers = (layer,)
        self._ready = False
        skip = clip_skip()
        if skip > 1 and layer < SD2.towers[0].last_layer:
            self.notes = (
                f"Trained at Clip skip {skip} (layer {layer}): the LoRA is valid only with it.",
            )

    def text_encoder_weights(self) -> dict[str, Tensor]:
        """See LentModel; it is a CLIPTextModel already."""
        return {
            name.replace(".wrapped.", "."): value.detach().to("cpu", torch.float32, copy=True)
            for name, value in self._text.state_dict().items()
            if name.startswith(TEXT_PREFIX) and "position_ids" not in name
        }

    def make_bare(self) -> None:
        """Give the host its unpatched parts, and let it take LoRAs out of their weights."""
        self.host_model.forge_objects = self._objects.shallow_copy()
        self.host_model.current_lora_hash = ""  # so that the next picture looks at its prompt anew
        with torch.inference_mode():
            for patcher in (self._objects.clip.patcher, self._patcher):
                _memory().load_models_gpu([patcher])
                if hasattr(patcher, "refresh_loras"):
                    patcher.refresh_loras()

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """See WebuiModel; the host's blocks add to their input in place."""
        with residuals_kept(self.unet):
            yield

    def _run_unet(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        if not self._ready:
            self._load_unet(latents.shape)
        dtype = self.compute_dtype
        output: Tensor = self.unet(
            latents.to(dtype, copy=True),
            timesteps.float(),
            context=text.tokens.to(dtype).clone(),
            transformer_options={},
        )
        return output.float()

    def _encode(self, pixels: Tensor) -> Tensor:
        with torch.inference_mode(), _means(self._objects.vae):
            latents = self.host_model.encode_first_stage(pixels)
        return self._taken_back(latents)

    def _decode(self, latents: Tensor) -> Tensor:
        with torch.inference_mode():
            pixels = self.host_model.decode_first_stage(latents.detach())
        return self._taken_back(pixels)

    def _taken_back(self, value: Tensor) -> Tensor:
        self._ready = False  # the VAE may have pushed the UNet out of memory
        return value.clone()

    def _load_unet(self, shape: torch.Size) -> None:
        memory = _TRAINING_MEMORY * self._patcher.memory_required(list(shape))
        with torch.inference_mode():
            _memory().load_models_gpu([self._patcher], memory_required=memory)
        make_plain(self.unet)
        self._ready = True


def clip_skip() -> int:
    """The user's Clip skip; 1 is none."""
    return int(getattr(shared.opts, "CLIP_stop_at_last_layers", 1))


@contextmanager
def _means(vae: Any) -> Iterator[None]:
    """Inside, the host's VAE gives the mean instead of a draw from the global generator."""
    options = vae.patcher.model_options
    before = options.get(_REGULATION)
    options[_REGULATION] = lambda posterior: posterior.mode()
    try:
        yield
    finally:
        if before is None:
            options.pop(_REGULATION, None)
        else:
            options[_REGULATION] = before


def _memory() -> Any:
    """The host's memory management, which it has imported long before."""
    for name in _MEMORY:
        if name in sys.modules:
            return sys.modules[name]
    raise WrongModel("This kind of Forge keeps its memory management elsewhere: it is not known.")


def _text_encoder(clip: Any) -> Any:
    stage = clip.cond_stage_model
    towers = [name for name in ("clip_l", "clip_g", "clip_h", "t5xxl") if hasattr(stage, name)]
    if len(towers) > 1:
        recognise(Seen(text_encoders=len(towers)))
    if towers == ["clip_l"]:
        recognise(Seen(text_width=768))
    if towers != ["clip_h"]:
        found = ", ".join(towers) or type(stage).__name__
        recognise(Seen(architecture=f"a model with the text encoder {found}"))
    return stage.clip_h.transformer


def _predictor(core: Any) -> Any:
    """Forge's predictor, or what ComfyUI's code calls model_sampling."""
    return getattr(core, "predictor", None) or core.model_sampling


def _prediction(predictor: Any) -> Prediction:
    stated = getattr(predictor, "prediction_type", None)
    bases = {base.__name__ for base in type(predictor).__mro__}
    if stated == "v_prediction" or (stated is None and "V_PREDICTION" in bases):
        return "v"
    if stated == "epsilon" or (stated is None and "EPS" in bases):
        return "epsilon"
    return prediction_named(stated or type(predictor).__name__)


def _compute_dtype(core: Any) -> torch.dtype:
    dtype: torch.dtype | None = getattr(core, "computation_dtype", None)
    dtype = dtype or getattr(core, "manual_cast_dtype", None)
    return dtype if dtype is not None else core.get_dtype()


def _conditioning_layer(model: Any, weights: dict[str, Tensor]) -> int:
    """The layer that conditions the picture under the host's own rule for Clip skip."""
    found = (re.match(r"text_model\.encoder\.layers\.(\d+)\.", name) for name in weights)
    count = len({match[1] for match in found if match})
    engine = getattr(model, "text_processing_engine", None) or model.cond_stage_model
    minimal = getattr(engine, "minimal_clip_skip", None)
    skipped = 2 if minimal is None else max(int(minimal), clip_skip())  # Classic ignores Clip skip
    layer = count - skipped
    if not 0 <= layer <= SD2.towers[0].last_layer:
        raise WrongModel(
            f"Clip skip {clip_skip()} leaves layer {layer} of {count} in use, for which no LoRA "
            "can be made. Set Clip skip to 1."
        )
    return layer
