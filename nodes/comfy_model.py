"""ComfyUI's MODEL, CLIP and VAE as a LentModel.

Only the files nodes/comfy_*.py name ComfyUI's internals.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import comfy.model_management as management
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_sampling import EPS, V_PREDICTION
from torch import Tensor, nn

from ..unlearn_core.errors import TrainingFailed, WrongModel
from ..unlearn_core.forgetting.memory_estimate import learns
from ..unlearn_core.models.gradients import HalfGradient, check_gradient, recomputed
from ..unlearn_core.models.lent_model import Prediction
from ..unlearn_core.models.unet_sizes import UnetSizes
from ..unlearn_core.settings import UnlearnSettings
from .comfy_clip import active_layer, text_weights, text_width
from .comfy_run import TRAINING_MEMORY, room_for, static

logger = logging.getLogger(__name__)

_STOCK_IMAGE_SIZE = 32
"""What ComfyUI's detection writes into every UNet config, whatever the model's size."""
_SD2_ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)


class ComfyModel:
    """Lends what ComfyUI has loaded; its weights are bit for bit what they were afterwards.

    Use it inside `training_allowed`. MODEL and VAE may be missing where nothing is drawn.
    """

    def __init__(self, clip: Any, model: Any = None, vae: Any = None, alone: bool = False) -> None:
        """Check the parts; `alone` leaves out the LoRAs that CLIP carries already.

        Raises WrongModel for anything but Stable Diffusion 2.
        """
        self._clip, self._model, self._vae, self._alone = clip, static(model), vae, alone
        self.last_used_layer = active_layer(clip)
        self.native_size = 512
        self.prediction: Prediction = "epsilon"
        self.compute_dtype = torch.float32
        self.alphas_cumprod = _SD2_ALPHAS
        self.device: torch.device = clip.patcher.load_device
        self.unet_sizes: UnetSizes | None = None
        self.recomputes = False
        self._ready = self._gradient_checked = False
        if model is not None:
            self._read_unet()

    def _read_unet(self) -> None:
        unet = self._model.model
        sampling = self._model.get_model_object("model_sampling")
        config = unet.model_config.unet_config
        width = text_width(self._clip)
        if config.get("context_dim") != width or config.get("adm_in_channels") is not None:
            raise WrongModel(
                f"MODEL expects text of width {config.get('context_dim')}, and CLIP is {width} "
                "wide: these are parts of two models. Wire MODEL and CLIP of one Stable Diffusion "
                "2 checkpoint."
            )
        if config.get("in_channels") != 4:
            raise WrongModel(
                f"MODEL takes {config.get('in_channels')} channels: it is an inpainting or depth "
                "model. Use the plain text-to-image checkpoint."
            )
        self.prediction = _prediction(sampling)
        self.device = self._model.load_device
        self.compute_dtype = unet.manual_cast_dtype or unet.get_dtype()
        self.alphas_cumprod = 1 / (1 + sampling.sigmas.detach().clone().float().cpu() ** 2)
        size = config.get("image_size", _STOCK_IMAGE_SIZE)
        if size == _STOCK_IMAGE_SIZE:
            size = 96 if self.prediction == "v" else 64
        self.native_size = 8 * size
        shapes = {n: tuple(p.shape) for n, p in unet.diffusion_model.named_parameters()}
        self.unet_sizes = UnetSizes.from_ldm(shapes, unet.manual_cast_dtype is not None)

    @property
    def draws(self) -> bool:
        """Whether MODEL and VAE are both here."""
        return self._model is not None and self._vae is not None

    def check_wires(self, settings: UnlearnSettings, pictures: int) -> None:
        """Raise WrongModel for a missing MODEL or VAE that a run would ask for later.

        `pictures` is how many there are to learn from.
        """
        reads = settings.needs_pictures or learns(settings, pictures)
        if reads or settings.stand_in_pictures > 0:
            self._needed(self._model, "MODEL")
        if reads:
            self._needed(self._vae, "VAE")

    def free_memory(self) -> int | None:
        """See LentModel; ComfyUI makes room by itself for what it runs."""
        return None if self._model is None else room_for(self._model)

    def text_encoder_weights(self) -> dict[str, Tensor]:
        """See LentModel; with the LoRAs that CLIP carries, unless `alone`."""
        return text_weights(self._clip, self._alone)

    def predict(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """See LentModel; through the host's own UNet with every patch that MODEL carries."""
        if not self._ready:
            self._load_unet(latents.shape)
        if not torch.is_grad_enabled() or not text.requires_grad:
            with torch.no_grad():
                return self._predict(latents, timesteps, text)
        if not self._gradient_checked:
            self._check_gradient(latents, timesteps, text)
            self._gradient_checked = True
        return self._predict(latents, timesteps, text)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """See LentModel; ComfyUI's VAE gives the mean."""
        vae = self._needed(self._vae, "VAE")
        self._needed(self._model, "MODEL")
        with _as_the_host():
            latents = vae.encode(pixels.movedim(1, -1) / 2 + 0.5)
            scaled = self._model.model.process_latent_in(latents)
        return self._taken_back(scaled)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """See LentModel."""
        vae = self._needed(self._vae, "VAE")
        with _as_the_host():
            pixels = vae.decode(self._model.model.process_latent_out(latents.detach()))
        return self._taken_back(pixels).movedim(-1, 1) * 2 - 1

    def _taken_back(self, value: Tensor) -> Tensor:
        self._ready = False  # the VAE may have pushed the UNet out of memory
        return value.clone().to(self.device, torch.float32)

    def _needed(self, part: Any, name: str) -> Any:
        if part is None:
            raise WrongModel(
                f"{name} is not connected, and these settings draw or read pictures: connect it, "
                "or choose the preset quick."
            )
        return part

    def _load_unet(self, shape: torch.Size) -> None:
        model = self._needed(self._model, "MODEL")
        memory = TRAINING_MEMORY * model.memory_required(list(shape))
        with torch.inference_mode(True):
            management.load_models_gpu([model], memory_required=memory, force_full_load=True)
        _make_plain(model.model)
        self._ready = True

    def _predict(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        unet = self._model.model
        sigmas: Tensor = unet.model_sampling.sigmas.to(self.device).float()
        sigma = sigmas[timesteps.to(self.device)]
        spread = sigma.view(-1, 1, 1, 1)
        noisy = latents.to(self.device) * (1 + spread**2).sqrt()
        half = HalfGradient(self.compute_dtype)
        options = dict(self._model.model_options.get("transformer_options", {}))
        if text.requires_grad:
            options["optimized_attention_override"] = _differentiable_attention
        again = self.recomputes and text.requires_grad
        with recomputed(unet.diffusion_model) if again else nullcontext():
            denoised = unet.apply_model(
                noisy,
                sigma,
                c_crossattn=half.at_text(text.to(self.device)),
                transformer_options=options,
            )
        clean = half.at_output(denoised)
        if self.prediction == "epsilon":
            return (noisy - clean) / spread
        return (noisy / (1 + spread**2) - clean) * (1 + spread**2).sqrt() / spread

    def _check_gradient(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> None:
        """Raise TrainingFailed if the UNet gives a wrong gradient, after a try in float32."""
        tolerance = 0.1 if self.compute_dtype == torch.float32 else 0.3
        arguments = (latents[:1].detach(), timesteps[:1], text[:1].detach())
        try:
            check_gradient(self._predict, *arguments, tolerance)
        except TrainingFailed as error:
            if self.compute_dtype == torch.float32:
                raise
            logger.warning("%s Computing in float32 from here on.", error)
            self._compute_in_float32()
            check_gradient(self._predict, *arguments, 0.1)

    def _compute_in_float32(self) -> None:
        unet = self._model.model
        for part in unet.diffusion_model.modules():
            if hasattr(part, "comfy_cast_weights"):
                part.comfy_cast_weights = True
        unet.manual_cast_dtype = self.compute_dtype = torch.float32


def _prediction(sampling: Any) -> Prediction:
    """What MODEL predicts, ModelSamplingDiscrete included."""
    if isinstance(sampling, V_PREDICTION):
        return "v"
    if getattr(type(sampling), "calculate_denoised", None) is EPS.calculate_denoised:
        return "epsilon"
    bases = ", ".join(base.__name__ for base in type(sampling).__mro__[1:3])
    raise WrongModel(
        f"MODEL samples as {bases}; this pack needs Stable Diffusion 2, which predicts epsilon or "
        "v. Take LCM and similar sampling nodes out."
    )


def _as_the_host() -> Any:
    return torch.inference_mode(True)


@torch.no_grad()
def _make_plain(module: nn.Module) -> None:
    """Put plain tensors without gradient in the place of inference tensors, one at a time."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(weight.detach().clone(), requires_grad=False)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = value.detach().clone()


def _differentiable_attention(_: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Instead of whatever the host has chosen: some kernels have no backward."""
    attended: Tensor = attention_pytorch(*args, **kwargs)
    return attended
