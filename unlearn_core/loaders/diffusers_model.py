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
from ..models.families import Prediction
from ..models.unet_sizes import UnetSizes
from ..text.conditioning import Conditioning
from ..text.tokenizer import CHUNK
from .demo_model import DEMOS, load_demo_folder
from .model_configs import (
    TEXT_NUMBERS,
    check_configs,
    latent_size,
    read_schedule,
    scaling_factor,
    vae_factor,
)
from .model_files import PROJECTION, TEXT_PREFIX
from .pipeline_folder import load_pipeline_folder
from .pipeline_parts import parts_of, try_once, vae_dtype
from .single_file import SingleFile

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_NAMES: dict[Prediction, str] = {"epsilon": "epsilon", "v": "v_prediction"}
"""What diffusers calls a prediction."""


class DiffusersModel(ModelAdapter):
    """Lends a pipeline of diffusers; its weights and flags stay as they are."""

    checks_gradient = False  # torch's own attention

    def __init__(
        self, pipeline: DiffusionPipeline, compute_dtype: torch.dtype | None = None
    ) -> None:
        """Check the pipeline; `compute_dtype` None means the fastest that is precise enough.

        Raises WrongModel if it is no text-to-image pipeline of a known family, or if its weights
        are of a half type where only float32 can be computed.
        """
        self._pipeline: Any = pipeline  # diffusers sets its parts by name; mypy can't see them
        unet, vae, self._text_encoders = parts_of(pipeline)
        schedule = read_schedule(self._pipeline.scheduler)
        self.prediction, self.alphas_cumprod, self.is_distilled = schedule
        texts = [
            {name: getattr(text_encoder.config, name) for name in TEXT_NUMBERS}
            for text_encoder in self._text_encoders
        ]
        self.family = check_configs(unet.config, texts, "the lent pipeline")
        self.unet = unet
        self.device: torch.device = next(unet.parameters()).device
        self.compute_dtype = compute_dtype or default_compute_dtype(self.device)
        stored = self._stored_dtype(unet, "UNet")
        self._vae_dtype = self.compute_dtype
        if self._stored_dtype(vae, "VAE") == torch.float32:
            self._vae_dtype = vae_dtype(self.family, self.compute_dtype)
        self._factor = vae_factor(vae.config, self.family)
        self._vae_scale = scaling_factor(vae.config.scaling_factor, self.family)
        height, width = latent_size(unet.config.sample_size, self.family, self.prediction)
        self.picture_size = (width * self._factor, height * self._factor)
        self.native_size = min(self.picture_size)
        self.conditioning_layers = tuple(
            int(text["num_hidden_layers"]) - (1 if tower.normed else 2)
            for text, tower in zip(texts, self.family.towers, strict=True)
        )
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
    def pipeline(self) -> DiffusionPipeline:
        """The pipeline that is lent."""
        lent: DiffusionPipeline = self._pipeline
        return lent

    def text_encoder_weights(self) -> dict[str, Tensor]:
        """See LentModel."""
        own = (TEXT_PREFIX, PROJECTION)
        return {
            tower.prefix + (name if name.startswith(own) else TEXT_PREFIX + name): value.detach()
            for tower, text_encoder in zip(self.family.towers, self._text_encoders, strict=True)
            for name, value in text_encoder.state_dict().items()
            if "position_ids" not in name
        }

    def ramp(self) -> Conditioning:
        """A conditioning of one prompt, of the widths that the UNet takes; it means nothing."""
        configs = [text_encoder.config for text_encoder in self._text_encoders]
        width = sum(config.hidden_size for config in configs)
        tokens = torch.linspace(-1, 1, CHUNK * width).view(1, CHUNK, width).to(self.device)
        if not self.family.pooled:
            return Conditioning(tokens)
        return Conditioning(tokens, torch.linspace(-1, 1, configs[-1].projection_dim)[None])

    def _run_unet(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        unet = self._pipeline.unet
        added = None
        if text.pooled is not None:
            edges = [self._factor * edge for edge in latents.shape[-2:]]
            sizes = torch.tensor([*edges, 0, 0, *edges], dtype=torch.float32, device=self.device)
            added = {
                "text_embeds": self._entering(unet, text.pooled),
                "time_ids": sizes.expand(len(latents), -1),
            }
        with self._computing_in(unet):
            output: Tensor = unet(
                self._entering(unet, latents),
                timesteps,
                encoder_hidden_states=self._entering(unet, text.tokens),
                added_cond_kwargs=added,
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

    def _dtype_of(self, part: nn.Module) -> torch.dtype:
        return self._vae_dtype if part is self._pipeline.vae else self.compute_dtype

    def _computes_plainly(self, part: nn.Module) -> bool:
        """Whether a part's weights are of the dtype that is computed in.

        Then autocast is left out: it would hold norms in float32 for the way back.
        """
        return next(part.parameters()).dtype == self._dtype_of(part)

    def _entering(self, part: nn.Module, tensor: Tensor) -> Tensor:
        dtype = self._dtype_of(part) if self._computes_plainly(part) else tensor.dtype
        return tensor.to(self.device, dtype)

    def _computing_in(self, part: nn.Module) -> AbstractContextManager[Any]:
        if self._computes_plainly(part):
            return nullcontext()
        return torch.autocast(self.device.type, self._dtype_of(part))


def load_model(
    name: str | Path, prediction: Literal["auto", "epsilon", "v"] = "auto"
) -> tuple[DiffusersModel, str]:
    """Load a demo model, a diffusers folder or a single .safetensors file, without the network.

    The demo models are "demo" (SD2), "demo-sd1" and "demo-xl".

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
    if str(name) in DEMOS:
        pipeline, ground, notes = load_demo_folder(DEMOS[str(name)])
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
    kind = found or read_schedule(pipeline.scheduler).prediction
    line = f"prediction: {kind} ({ground})"
    if prediction != "auto":
        line = f"prediction: {prediction} (as you asked; otherwise {kind}: {ground})"
        _set_prediction(pipeline, prediction)
    model = DiffusersModel(pipeline.to(device))
    if model.is_distilled:
        notes = (*notes, "a Turbo model: pictures are drawn in few steps, without guidance.")
    if str(name) not in DEMOS and found is None:  # a folder, with configs of its own
        try_once(model, model.ramp(), path)
    return model, "\n".join([line, *(f"note: {note}" for note in notes)])


def _set_prediction(pipeline: Any, prediction: Prediction) -> None:
    kind = _NAMES[prediction]
    scheduler = pipeline.scheduler
    pipeline.scheduler = type(scheduler).from_config(scheduler.config, prediction_type=kind)
