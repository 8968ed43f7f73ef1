"""ComfyUI's MODEL, CLIP and VAE as a LentModel.

Only the files nodes/comfy_*.py name ComfyUI's internals.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import comfy.model_management as management
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_base import SDXL, SDXLRefiner
from comfy.model_sampling import EPS, V_PREDICTION
from torch import Tensor

from ..unlearn_core.errors import TrainingFailed, WrongModel
from ..unlearn_core.forgetting.memory_estimate import learns
from ..unlearn_core.models.adapter import ModelAdapter, alphas_of
from ..unlearn_core.models.families import Prediction, Seen, prediction_named, recognise
from ..unlearn_core.models.gradients import make_plain
from ..unlearn_core.models.unet_sizes import UnetSizes
from ..unlearn_core.settings import UnlearnSettings, presets_where
from ..unlearn_core.text.conditioning import Conditioning
from .comfy_clip import conditioning_layers, family_of, seen_of, text_weights
from .comfy_dynamic import static
from .comfy_run import TRAINING_MEMORY, room_for

logger = logging.getLogger(__name__)


class ComfyModel(ModelAdapter):
    """Lends what ComfyUI has loaded; its weights are bit for bit what they were afterwards.

    Use it inside `training_allowed`. MODEL and VAE may be missing where nothing is drawn.
    """

    def __init__(
        self,
        clip: Any,
        model: Any = None,
        vae: Any = None,
        alone: bool = False,
        is_distilled: bool = False,
    ) -> None:
        """Check the parts; `alone` leaves out the LoRAs that CLIP carries already.

        Raises WrongModel for a family that is not known.
        """
        self._clip, self._model, self._vae, self._alone = clip, static(model), vae, alone
        self.is_distilled = is_distilled
        self.family = family_of(clip)
        self.conditioning_layers = conditioning_layers(clip)
        self.prediction: Prediction = "epsilon"
        self.native_size = self.family.native_size(None, self.prediction)
        self.compute_dtype = torch.float32
        self.alphas_cumprod = self.family.alphas_cumprod()
        self.device = clip.patcher.load_device
        self._ready = False
        if model is not None:
            self._read_unet()

    def _read_unet(self) -> None:
        unet = self._model.model
        sampling = self._model.get_model_object("model_sampling")
        self.family = recognise(_seen_with(seen_of(self._clip), unet), "MODEL")
        self.unet = unet.diffusion_model
        self.prediction = _prediction(sampling)
        self.device = self._model.load_device
        self.compute_dtype = unet.manual_cast_dtype or unet.get_dtype()
        self.alphas_cumprod = alphas_of(sampling.sigmas)
        edge = unet.model_config.unet_config.get("image_size")
        self.native_size = self.family.native_size(edge, self.prediction)
        shapes = {n: tuple(p.shape) for n, p in self.unet.named_parameters()}
        self.unet_sizes = UnetSizes.from_ldm(shapes, unet.manual_cast_dtype is not None)

    @property
    def draws(self) -> bool:
        """Whether MODEL and VAE are both here."""
        return self._model is not None and self._vae is not None

    def check_wires(self, settings: UnlearnSettings, pictures: int) -> None:
        """Raise WrongModel for a missing MODEL or VAE that a run would ask for later.

        `pictures` is how many there are to learn from.
        """
        told = missing_wire(settings, pictures, self._model is not None, self._vae is not None)
        if told:
            raise WrongModel(told)

    def free_memory(self) -> int | None:
        """See LentModel; ComfyUI makes room by itself for what it runs."""
        return None if self._model is None else room_for(self._model)

    def text_encoder_weights(self) -> dict[str, Tensor]:
        """See LentModel; with the LoRAs that CLIP carries, unless `alone`."""
        return text_weights(self._clip, self._alone)

    def _encode(self, pixels: Tensor) -> Tensor:
        vae = self._needed(self._vae, "VAE")
        self._needed(self._model, "MODEL")
        with _as_the_host():
            latents = vae.encode(pixels.movedim(1, -1) / 2 + 0.5)
            scaled = self._model.model.process_latent_in(latents)
        return self._taken_back(scaled)

    def _decode(self, latents: Tensor) -> Tensor:
        vae = self._needed(self._vae, "VAE")
        with _as_the_host():
            pixels = vae.decode(self._model.model.process_latent_out(latents.detach()))
        return self._taken_back(pixels).movedim(-1, 1) * 2 - 1

    def _taken_back(self, value: Tensor) -> Tensor:
        self._ready = False  # the VAE may have pushed the UNet out of memory
        return value.clone().to(self.device, torch.float32)

    def _needed(self, part: Any, name: str) -> Any:
        if part is None:
            raise WrongModel(_not_connected(name))
        return part

    def _load_unet(self, shape: torch.Size) -> None:
        model = self._needed(self._model, "MODEL")
        memory = TRAINING_MEMORY * model.memory_required(list(shape))
        with torch.inference_mode(True):
            management.load_models_gpu([model], memory_required=memory, force_full_load=True)
        make_plain(model.model)
        self._ready = True

    def _run_unet(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """Through the host's own UNet with every patch that MODEL carries."""
        if not self._ready:
            self._load_unet(latents.shape)
        host = self._model.model
        sigma = host.model_sampling.sigmas.to(self.device).float()[timesteps]
        spread = sigma.view(-1, 1, 1, 1)
        noisy = latents * (1 + spread**2).sqrt()
        options = dict(self._model.model_options.get("transformer_options", {}))
        if text.requires_grad:
            options["optimized_attention_override"] = _differentiable_attention
        clean: Tensor = host.apply_model(
            noisy,
            sigma,
            c_crossattn=text.tokens,
            transformer_options=options,
            **self._beside_tokens(latents, text),
        )
        if self.prediction == "epsilon":
            output: Tensor = (noisy - clean) / spread
        else:
            output = (noisy / (1 + spread**2) - clean) * (1 + spread**2).sqrt() / spread
        return output

    def _beside_tokens(self, latents: Tensor, text: Conditioning) -> dict[str, Tensor]:
        """What SDXL's UNet takes of the pooled vector and the picture's size, without a crop."""
        if text.pooled is None:
            return {}
        height, width = (self.family.vae_factor * edge for edge in latents.shape[-2:])
        host = self._model.model
        return {"y": host.encode_adm(pooled_output=text.pooled, height=height, width=width)}

    def _check_gradient(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> None:
        """As the base does; where that fails, once more in float32."""
        try:
            super()._check_gradient(latents, timesteps, text)
        except TrainingFailed as error:
            if self.compute_dtype == torch.float32:
                raise
            logger.warning("%s Computing in float32 from here on.", error)
            self._compute_in_float32()
            super()._check_gradient(latents, timesteps, text)

    def _compute_in_float32(self) -> None:
        unet = self._model.model
        for part in unet.diffusion_model.modules():
            if hasattr(part, "comfy_cast_weights"):
                part.comfy_cast_weights = True
        unet.manual_cast_dtype = self.compute_dtype = torch.float32


def missing_wire(
    settings: UnlearnSettings, pictures: int, has_model: bool, has_vae: bool
) -> str | None:
    """What to tell the user where a run with these settings and pictures would ask for more."""
    reads = settings.needs_pictures or learns(settings, pictures)
    if not has_model and (reads or settings.needs_unet):
        return _not_connected("MODEL")
    return _not_connected("VAE") if reads and not has_vae else None


def _not_connected(name: str) -> str:
    return (
        f"{name} is not connected, and these settings draw or read pictures: connect it, or choose "
        f"the preset {presets_where(needs_unet=False)}."
    )


def _seen_with(seen: Seen, unet: Any) -> Seen:
    """What CLIP shows, and MODEL beside it."""
    if not isinstance(unet.diffusion_model, UNetModel):
        return replace(seen, architecture=type(unet).__name__)
    config = unet.model_config.unet_config
    # Of an SDXL whose CLIP has one text encoder the widths tell that the parts are of two models.
    pools = isinstance(unet, SDXLRefiner if seen.text_encoders == 1 else SDXL)
    takes = config.get("adm_in_channels") is not None
    return replace(
        seen,
        context_width=config.get("context_dim"),
        channels=config.get("in_channels"),
        linear_projections=config.get("use_linear_in_transformer"),
        pooled=pools,
        extra_conditions=takes and not isinstance(unet, (SDXL, SDXLRefiner)),
    )


def _prediction(sampling: Any) -> Prediction:
    """What MODEL predicts, ModelSamplingDiscrete included."""
    way = getattr(type(sampling), "calculate_denoised", None)
    if way is V_PREDICTION.calculate_denoised:
        return "v"
    if way is EPS.calculate_denoised:
        return "epsilon"
    name = getattr(way, "__qualname__", type(sampling).__name__).partition(".")[0]
    remedy = "Take LCM and similar sampling nodes out, or choose another checkpoint."
    return prediction_named(name, remedy)


def _as_the_host() -> Any:
    return torch.inference_mode(True)


def _differentiable_attention(_: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Instead of whatever the host has chosen: some kernels have no backward."""
    attended: Tensor = attention_pytorch(*args, **kwargs)
    return attended
