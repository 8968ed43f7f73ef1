"""A LentModel over a diffusers pipeline, and loading one from a name, a folder or a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..errors import BadFile, BadSettings, WrongModel
from ..files.input_files import is_file, is_folder
from ..models.devices import best_device, default_compute_dtype, free_memory
from ..models.families import TEXT_NUMBERS, check_configs, latent_size, scaling_factor
from ..models.gradients import HalfGradient, recomputed
from ..models.lent_model import Prediction
from ..models.model_trial import try_once
from ..models.unet_sizes import UnetSizes
from .demo_model import load_demo_folder
from .model_files import TEXT_PREFIX
from .pipeline_folder import load_pipeline_folder
from .single_file import SingleFile

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

_KINDS: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v"}
_PARTS = ("unet", "vae", "text_encoder")
_VAE_FACTOR = 8
_PIXELS_AT_ONCE = 512 * 512
"""That go through the VAE together; a larger picture goes alone."""


class DiffusersModel:
    """Lends a StableDiffusionPipeline; its weights and flags stay as they are."""

    def __init__(
        self, pipeline: StableDiffusionPipeline, compute_dtype: torch.dtype | None = None
    ) -> None:
        """Check the pipeline; `compute_dtype` None means the fastest that is precise enough.

        Raises WrongModel if it is not a Stable Diffusion 2 text-to-image pipeline, or if its
        weights are of a half type where only float32 can be computed.
        """
        self._pipeline: Any = pipeline  # diffusers sets its parts by name; mypy can't see them
        self.prediction, self.alphas_cumprod = _schedule_of(pipeline)
        unet, vae, text_encoder = (getattr(self._pipeline, part) for part in _PARTS)
        text_config = {name: getattr(text_encoder.config, name) for name in TEXT_NUMBERS}
        check_configs(unet.config, text_config, "the lent pipeline")
        _refuse_adapters(text_encoder)
        self.device: torch.device = next(unet.parameters()).device
        self.compute_dtype = compute_dtype or default_compute_dtype(self.device)
        stored = self._stored_dtype(unet, "UNet")
        self._stored_dtype(vae, "VAE")
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        if factor != _VAE_FACTOR:
            raise WrongModel(
                f"The VAE makes latents {factor} times smaller than pictures; Stable Diffusion 2's "
                f"are {_VAE_FACTOR} times smaller."
            )
        self._vae_scale = scaling_factor(vae.config.scaling_factor)
        height, width = latent_size(unet.config.sample_size, self.prediction)
        self.picture_size = (width * factor, height * factor)
        self.native_size = min(self.picture_size)
        self.last_used_layer = int(text_config["num_hidden_layers"]) - 1
        converts = stored != self.compute_dtype
        self.unet_sizes: UnetSizes | None = UnetSizes.from_config(unet.config, converts)
        self.recomputes = False

    def _stored_dtype(self, part: nn.Module, name: str) -> torch.dtype:
        """The one dtype of a part's weights; raises WrongModel if it can't be computed with."""
        kinds = {weight.dtype for weight in part.parameters()}
        stored = next(iter(kinds))
        if len(kinds) > 1:
            found = ", ".join(sorted(str(kind) for kind in kinds))
            raise WrongModel(
                f"The {name}'s weights are of several types ({found}): load the pipeline with one "
                "torch_dtype."
            )
        if stored != torch.float32 and (
            self.compute_dtype == torch.float32 or self.device.type == "cpu"
        ):
            raise WrongModel(
                f"The {name}'s weights are {stored} on {self.device}, which can't be computed "
                f"in {self.compute_dtype}: load the pipeline with torch_dtype=torch.float32."
            )
        return stored

    @property
    def pipeline(self) -> StableDiffusionPipeline:
        """The pipeline that is lent."""
        lent: StableDiffusionPipeline = self._pipeline
        return lent

    def free_memory(self) -> int | None:
        """See LentModel."""
        return free_memory(self.device, self._pipeline.unet)

    def text_encoder_weights(self) -> dict[str, Tensor]:
        """The text encoder's weights as CLIPTextModel of transformers 4 names them."""
        return {
            name if name.startswith(TEXT_PREFIX) else TEXT_PREFIX + name: value.detach()
            for name, value in self._pipeline.text_encoder.state_dict().items()
            if "position_ids" not in name
        }

    def predict(self, latents: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """The UNet's output, differentiable in `text` (and in `latents`).

        latents (B, 4, h, w) float32, timesteps (B,) int64 in 0..999, text (B, 77 n, width)
        float32 -> (B, 4, h, w) float32, on `device`. No gradient reaches the UNet's own weights.
        """
        unet = self._pipeline.unet
        half = HalfGradient(self.compute_dtype)
        again = self.recomputes and torch.is_grad_enabled() and text.requires_grad
        with _frozen(unet), self._computing(unet), recomputed(unet) if again else nullcontext():
            output: Tensor = unet(
                self._entering(unet, latents),
                timesteps.to(self.device),
                encoder_hidden_states=self._entering(unet, half.at_text(text)),
                return_dict=False,
            )[0]
        return half.at_output(output.float())

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, 8h, 8w) float32 in [-1, 1] -> (B, 4, h, w) float32: the mean, scaled."""
        vae = self._pipeline.vae
        means = []
        with self._computing(vae):
            for part in _few(pixels, pixels[0, 0].numel()):
                means.append(vae.encode(self._entering(vae, part)).latent_dist.mean.float())
        return torch.cat(means) * self._vae_scale

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """(B, 4, h, w) float32 -> (B, 3, 8h, 8w) float32, clamped to [-1, 1]."""
        vae = self._pipeline.vae
        pixels = []
        with self._computing(vae):
            for part in _few(latents, 64 * latents[0, 0].numel()):
                scaled = self._entering(vae, part / self._vae_scale)
                pixels.append(vae.decode(scaled, return_dict=False)[0].float())
        return torch.cat(pixels).clamp(-1, 1)

    def _computes_plainly(self, part: nn.Module) -> bool:
        """Whether a part's weights are of the dtype that is computed in.

        Then autocast is left out: it would hold norms in float32 for the way back.
        """
        return next(part.parameters()).dtype == self.compute_dtype

    def _entering(self, part: nn.Module, tensor: Tensor) -> Tensor:
        dtype = self.compute_dtype if self._computes_plainly(part) else tensor.dtype
        return tensor.to(self.device, dtype)

    def _computing(self, part: nn.Module) -> AbstractContextManager[Any]:
        if self._computes_plainly(part):
            return nullcontext()
        return torch.autocast(self.device.type, self.compute_dtype)


def load_model(
    name: str | Path, prediction: Literal["auto", "epsilon", "v"] = "auto"
) -> tuple[DiffusersModel, str]:
    """Load "demo", a diffusers folder or a single .safetensors file, without the network.

    Returns the model, frozen, on the best device, and a line that says what its UNet predicts and
    on what ground; further lines say which files were read in place of others. Raises BadFile if
    the file or folder can't be used, WrongModel if it holds another family than Stable Diffusion 2,
    BadSettings for an unknown `prediction`.
    """
    if prediction not in ("auto", "epsilon", "v"):
        raise BadSettings(f'prediction is "{prediction}"; it must be auto, epsilon or v.')
    device = best_device()
    # In the dtype that is computed in, so that no second copy of the UNet is ever made.
    dtype = default_compute_dtype(device) if device.type == "cuda" else torch.float32
    path = Path(name)
    found: Prediction | None = None
    notes: tuple[str, ...] = ()
    pipeline: Any
    if str(name) == "demo":
        pipeline, ground, notes = load_demo_folder()
    elif is_folder(path):
        pipeline, ground, notes = load_pipeline_folder(path, dtype)
    elif not is_file(path) and not path.exists():
        raise BadFile(
            f'There is no "{str(name)[:200]}": give "demo", a diffusers folder or a .safetensors '
            "file."
        )
    else:
        file = SingleFile(path)
        found, ground = file.guess_prediction()
        pipeline = file.load_pipeline(found if prediction == "auto" else prediction, dtype)
    kind = found or _schedule_of(pipeline)[0]
    line = f"prediction: {kind} ({ground})"
    if prediction != "auto":
        line = f"prediction: {prediction} (as you asked; otherwise {kind}: {ground})"
        _set_prediction(pipeline, prediction)
    lines = [line, *(f"note: {note}" for note in notes)]
    model = DiffusersModel(pipeline.to(device))
    if str(name) != "demo" and found is None:  # a folder, with configs of its own
        try_once(model, int(pipeline.text_encoder.config.hidden_size), path)
    return model, "\n".join(lines)


def _schedule_of(pipeline: Any) -> tuple[Prediction, Tensor]:
    config = pipeline.scheduler.config
    said = str(config.get("prediction_type", "epsilon"))[:60]
    kind = _KINDS.get(said)
    if kind is None:
        raise WrongModel(
            f"The scheduler says that the UNet predicts {said}; this pack needs epsilon or "
            "v_prediction."
        )
    alphas = getattr(pipeline.scheduler, "alphas_cumprod", None)
    if not isinstance(alphas, Tensor) or alphas.shape != (1000,):
        raise WrongModel("The scheduler has no table of 1000 timesteps, as Stable Diffusion 2 has.")
    if not bool(((alphas >= 0) & (alphas <= 1)).all()):  # also refuses NaN
        raise WrongModel(
            "The scheduler's noise is not that of a diffusion model: set beta_start to 0.00085 and "
            "beta_end to 0.012 in scheduler/scheduler_config.json."
        )
    return kind, alphas.detach().to("cpu", torch.float32, copy=True)


def _set_prediction(pipeline: Any, prediction: Prediction) -> None:
    kind = {kind: name for name, kind in _KINDS.items()}[prediction]
    scheduler = pipeline.scheduler
    pipeline.scheduler = type(scheduler).from_config(scheduler.config, prediction_type=kind)


def _refuse_adapters(module: nn.Module) -> None:
    if any("lora_" in name or ".base_layer." in name for name in module.state_dict()):
        raise WrongModel(
            "The pipeline's text encoder carries a LoRA: unload it (unload_lora_weights) or fuse "
            "and unload it first."
        )


def _few(batch: Tensor, pixels: int) -> tuple[Tensor, ...]:
    """Parts of pictures of so many pixels that fit through the VAE."""
    parts: tuple[Tensor, ...] = batch.split(max(1, _PIXELS_AT_ONCE // pixels))
    return parts


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No parameter wants a gradient inside; each flag is put back after.

    The graph that is built inside keeps no path to the parameters, so flags may go back before
    the backward pass.
    """
    wanting = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)
