"""Forge's model as a LentModel; reForge's, Neo's and Classic's where they differ.

Tried on Forge, Forge Neo and reForge; Classic was only read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from unlearn_core.errors import WrongModel
from unlearn_core.loaders.model_files import PROJECTION, TEXT_PREFIX
from unlearn_core.models.adapter import alphas_of
from unlearn_core.models.families import Prediction, Seen, prediction_named, recognise
from unlearn_core.models.gradients import make_plain, residuals_kept
from unlearn_core.text.clip_model import layer_count
from unlearn_core.text.conditioning import Conditioning

from .settings import clip_skip
from .text_weights import from_transformers
from .webui_model import WebuiModel, check_unet

_MEMORY = ("backend.memory_management", "ldm_patched.modules.model_management")
_POSITIONS = f"{TEXT_PREFIX}embeddings.position_embedding.weight"
_TEXTS = ("clip_l", "clip_g", "clip_h")
"""What the host calls the text encoders, in the order of their states."""
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
        self._texts = _text_encoders(model, self._objects.clip.cond_stage_model)
        states = [text.transformer.state_dict() for text in self._texts.values()]
        widths = [int(state[_POSITIONS].shape[1]) for state in states]
        self.family = check_unet(self.unet, widths, _activations(self._texts.values()))
        counts = [layer_count(state) for state in states]
        least = [_least_skip(model, name) for name in self._texts]

        def layers(skip: int) -> list[int]:
            skipped = [2 if own is None else max(own, skip) for own in least]
            return [count - own for count, own in zip(counts, skipped, strict=True)]

        self._set_conditioning(layers, clip_skip())
        predictor = _predictor(self._core)
        self.prediction = _prediction(predictor)
        self.alphas_cumprod = alphas_of(predictor.sigmas)
        self.device = torch.device(self._patcher.load_device)
        self.compute_dtype = _compute_dtype(self._core)
        self._read_ldm_sizes()
        config = getattr(self._core, "config", None) or getattr(self._core, "model_config", None)
        stated = getattr(config, "unet_config", {}).get("image_size")
        self.native_size = self.family.native_size(stated, self.prediction)
        self._ready = False

    def _weights_of_each(self) -> Iterable[dict[str, Tensor]]:
        for tower, text in zip(self.family.towers, self._texts.values(), strict=True):
            weights = from_transformers(text.transformer.state_dict(), tower.pooled)
            if tower.pooled and PROJECTION not in weights:  # Classic's, beside the transformer
                weights[PROJECTION] = text.text_projection.detach().T.cpu().clone()
            yield weights

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
        vector = self._vector(latents, text)
        output: Tensor = self.unet(
            latents.to(dtype, copy=True),
            timesteps.float(),
            context=text.tokens.to(dtype).clone(),
            y=None if vector is None else vector.to(dtype),
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


def _text_encoders(model: Any, stage: Any) -> dict[str, Any]:
    """Those that condition the picture by name; raises WrongModel for those of other kinds."""
    if getattr(model, "is_sd3", False):
        recognise(Seen(architecture="Stable Diffusion 3"))
    found = {name: getattr(stage, name) for name in _TEXTS if hasattr(stage, name)}
    if not found or hasattr(stage, "t5xxl"):
        kind = "T5" if hasattr(stage, "t5xxl") else type(stage).__name__
        recognise(Seen(architecture=f"a model with the text encoder {kind}"))
    return found


def _activations(texts: Iterable[Any]) -> list[str]:
    configs = [getattr(text.transformer, "config", None) for text in texts]
    return [str(config.hidden_act) for config in configs if config is not None]


def _least_skip(model: Any, name: str) -> int | None:
    """Clip skip at its least for a text encoder; None where Clip skip does not count.

    Classic, which has no engines, looks at it for Stable Diffusion 1 alone.
    """
    ends = ("", f"_{name[-1]}")
    found = [getattr(model, f"text_processing_engine{end}", None) for end in ends]
    least = [engine.minimal_clip_skip for engine in found if engine is not None]
    if least:
        return int(least[0])
    return 1 if getattr(model, "is_sd1", False) else None


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
