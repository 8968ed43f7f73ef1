"""A LentModel over a diffusers pipeline, and loading one from a name, a folder or a file."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..errors import BadFile, BadSettings, WrongModel
from ..files.input_files import is_file, is_folder
from ..models.adapter import ModelAdapter
from ..models.devices import best_device, default_compute_dtype
from ..models.families import SD2, TIMESTEPS, Prediction, prediction_named
from ..models.unet_sizes import UnetSizes
from ..text.conditioning import Conditioning
from .demo_model import load_demo_folder
from .model_configs import TEXT_NUMBERS, check_configs, latent_size, scaling_factor
from .model_files import TEXT_PREFIX
from .model_trial import try_once
from .pipeline_folder import load_pipeline_folder
from .single_file import SingleFile

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

_PARTS = ("unet", "vae", "text_encoder")
_NAMES: dict[Prediction, str] = {"epsilon": "epsilon", "v": "v_prediction"}
"""What diffusers calls a prediction."""


class DiffusersModel(ModelAdapter):
    """Lends a StableDiffusionPipeline; its weights and flags stay as they are."""

    checks_gradient = False  # torch's own attention

    def __init__(
        self, pipeline: StableDiffusionPipeline, compute_dtype: torch.dtype | None = None
    ) -> None:
        """Check the pipeline; `compute_dtype` None means the fastest that is precise enough.

        Raises WrongModel if it is no text-to-image pipeline of a known family, or if its weights
        are of a half type where only float32 can be computed.
        """
        self._pipeline: Any = pipeline  # diffusers sets its parts by name; mypy can't see them
        self.prediction, self.alphas_cumprod = _schedule_of(pipeline)
        unet, vae, text_encoder = (getattr(self._pipeline, part) for part in _PARTS)
        text_config = {name: getattr(text_encoder.config, name) for name in TEXT_NUMBERS}
        self.family = check_configs(unet.config, text_config, "the lent pipeline")
        self.unet = unet
        _refuse_adapters(text_encoder)
        self.device: torch.device = next(unet.parameters()).device
        self.compute_dtype = compute_dtype or default_compute_dtype(self.device)
        stored = self._stored_dtype(unet, "UNet")
        self._stored_dtype(vae, "VAE")
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        if factor != self.family.vae_factor:
            raise WrongModel(
                f"The VAE makes latents {factor} times smaller than pictures; those of "
                f"{self.family.name} are {self.family.vae_factor} times smaller."
            )
        self._vae_scale = scaling_factor(vae.config.scaling_factor)
        height, width = latent_size(unet.config.sample_size, self.prediction)
        self.picture_size = (width * factor, height * factor)
        self.native_size = min(self.picture_size)
        self.conditioning_layers = (int(text_config["num_hidden_layers"]) - 1,)
        converts = stored != self.compute_dtype
        self.unet_sizes: UnetSizes | None = UnetSizes.from_config(unet.config, converts)
        self.checkpointing = False

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

    def text_encoder_weights(self) -> dict[str, Tensor]:
        """The text encoder's weights as CLIPTextModel of transformers 4 names them."""
        return {
            name if name.startswith(TEXT_PREFIX) else TEXT_PREFIX + name: value.detach()
            for name, value in self._pipeline.text_encoder.state_dict().items()
            if "position_ids" not in name
        }

    def _run_unet(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        unet = self._pipeline.unet
        with self._computing_in(unet):
            output: Tensor = unet(
                self._entering(unet, latents),
                timesteps,
                encoder_hidden_states=self._entering(unet, text.tokens),
                return_dict=False,
            )[0]
        return output.float()

    def _encode(self, pixels: Tensor) -> Tensor:
        vae = self._pipeline.vae
        with self._computing_in(vae):
            mean: Tensor = vae.encode(self._entering(vae, pixels)).latent_dist.mean
        return mean.float() * self._vae_scale

    def _decode(self, latents: Tensor) -> Tensor:
        vae = self._pipeline.vae
        with self._computing_in(vae):
            scaled = self._entering(vae, latents / self._vae_scale)
            pixels: Tensor = vae.decode(scaled, return_dict=False)[0]
        return pixels.float()

    def _computing(self) -> AbstractContextManager[Any]:
        return self._computing_in(self.unet)

    def _computes_plainly(self, part: nn.Module) -> bool:
        """Whether a part's weights are of the dtype that is computed in.

        Then autocast is left out: it would hold norms in float32 for the way back.
        """
        return next(part.parameters()).dtype == self.compute_dtype

    def _entering(self, part: nn.Module, tensor: Tensor) -> Tensor:
        dtype = self.compute_dtype if self._computes_plainly(part) else tensor.dtype
        return tensor.to(self.device, dtype)

    def _computing_in(self, part: nn.Module) -> AbstractContextManager[Any]:
        if self._computes_plainly(part):
            return nullcontext()
        return torch.autocast(self.device.type, self.compute_dtype)


def load_model(
    name: str | Path, prediction: Literal["auto", "epsilon", "v"] = "auto"
) -> tuple[DiffusersModel, str]:
    """Load "demo", a diffusers folder or a single .safetensors file, without the network.

    Returns the model, frozen, on the best device, and a line that says what its UNet predicts and
    on what ground; further lines say which files were read in place of others. Raises BadFile if
    the file or folder can't be used, WrongModel if it holds a family that is not known,
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
    kind = prediction_named(config.get("prediction_type", "epsilon"))
    alphas = getattr(pipeline.scheduler, "alphas_cumprod", None)
    if not isinstance(alphas, Tensor) or alphas.shape != (TIMESTEPS,):
        raise WrongModel(f"The scheduler has no table of {TIMESTEPS} timesteps.")
    if not bool(((alphas >= 0) & (alphas <= 1)).all()):  # also refuses NaN
        raise WrongModel(
            "The scheduler's noise is not that of a diffusion model: set beta_start to "
            f"{SD2.betas[0]} and beta_end to {SD2.betas[1]} in scheduler/scheduler_config.json."
        )
    return kind, alphas.detach().to("cpu", torch.float32, copy=True)


def _set_prediction(pipeline: Any, prediction: Prediction) -> None:
    kind = _NAMES[prediction]
    scheduler = pipeline.scheduler
    pipeline.scheduler = type(scheduler).from_config(scheduler.config, prediction_type=kind)


def _refuse_adapters(module: nn.Module) -> None:
    if any("lora_" in name or ".base_layer." in name for name in module.state_dict()):
        raise WrongModel(
            "The pipeline's text encoder carries a LoRA: unload it (unload_lora_weights) or fuse "
            "and unload it first."
        )
