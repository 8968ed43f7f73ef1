"""A Stable Diffusion 2 checkpoint in one safetensors file -> a diffusers pipeline, offline.

diffusers' own from_single_file asks the network for configurations, so the few names are turned
here; the configurations ship in sd2_configs/.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import BadFile, WrongModel
from ..files.input_files import is_file, read_json
from ..files.tensor_file import read_shapes
from ..models.families import SD1, Prediction, Seen, recognise
from .ldm_keys import TEXT_ENCODER_PREFIX, UNET_PREFIX, VAE_PREFIX, text_key, unet_key, vae_key
from .model_configs import SINGLE_FILE_HINT, guess_prediction
from .model_files import TEXT_PREFIX, fill_module, read_weights
from .pipeline_folder import assemble_pipeline, empty_parts

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

CONFIGS_FOLDER = Path(__file__).parent / "sd2_configs"

_CONV_IN = f"{UNET_PREFIX}input_blocks.0.0.weight"
_TEXT_KEY = f"{UNET_PREFIX}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_TRANSFORMERS_PREFIX = f"cond_stage_model.transformer.{TEXT_PREFIX}"
"""Before an OpenCLIP text encoder's weights that were stored under transformers' names."""
_MOST_SIDECAR = 2**20

_OTHER_ARCHITECTURES = {
    "conditioner.embedders.": "SDXL: it has two text encoders",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "Flux",
    "model.diffusion_model.label_emb.": "a variant of Stable Diffusion with extra conditions",
}


class SingleFile:
    """A checkpoint file whose header was read and found to be of Stable Diffusion 2."""

    def __init__(self, path: Path) -> None:
        """Read and check the header.

        Raises BadFile for a missing, truncated or pickled file and for one that is no checkpoint;
        WrongModel for one of another family.
        """
        self.path = path
        self.shapes = read_shapes(path)
        parts = ("unet", "vae", "text_encoder", "scheduler")
        self.configs: dict[str, dict[str, Any]] = {
            part: read_json(CONFIGS_FOLDER / f"{part}.json") for part in parts
        }
        self._check_family()

    def guess_prediction(self) -> tuple[Prediction, str]:
        """What the UNet predicts, and the ground of the guess in words."""
        sidecar = self.path.with_suffix(".yaml")
        if is_file(sidecar):
            try:
                with sidecar.open(encoding="utf-8", errors="replace") as file:
                    text = file.read(_MOST_SIDECAR)
            except OSError as error:
                raise BadFile(f"{sidecar} can't be read: {error}.") from error
            said = re.search(
                r"^[ \t]*parameterization:[ \t]*[\"']?(v|eps)[\"']?[ \t]*(#.*)?$", text, re.M
            )
            if said:
                kind: Prediction = "v" if said[1] == "v" else "epsilon"
                return kind, f"{sidecar.name} says so"
        name = SINGLE_FILE_HINT[0]
        there = read_weights(self.path, [name]) if name in self.shapes else {}
        return guess_prediction(there, SINGLE_FILE_HINT)

    def load_pipeline(self, prediction: Prediction, dtype: torch.dtype) -> StableDiffusionPipeline:
        """The checkpoint as a frozen pipeline on the CPU, without safety checker and tokenizer.

        UNet and VAE become `dtype`, the text encoder float32. Raises BadFile if weights are
        missing or misshapen.
        """
        unet_config, vae_config = dict(self.configs["unet"]), self.configs["vae"]
        if prediction == "v":
            unet_config["sample_size"] = unet_config["sample_size"] * 3 // 2  # 512 -> 768 pixels
        unet, vae, text_encoder = empty_parts(unet_config, vae_config, self.configs["text_encoder"])
        self._fill_renamed(unet, unet_names(unet, unet_config), dtype)
        levels = len(vae_config["block_out_channels"])
        self._fill_renamed(vae, {name: vae_key(name, levels) for name in vae.state_dict()}, dtype)
        self._fill_text_encoder(text_encoder)
        kind = {"v": "v_prediction", "epsilon": "epsilon"}[prediction]
        return assemble_pipeline(
            unet, vae, text_encoder, {**self.configs["scheduler"], "prediction_type": kind}
        )

    def _check_family(self) -> None:
        unet_config = self.configs["unet"]
        width = self._shape(_TEXT_KEY)[1:] or (None,)
        architectures = [
            kind
            for prefix, kind in _OTHER_ARCHITECTURES.items()
            if any(name.startswith(prefix) for name in self.shapes)
        ]
        where = str(self.path)
        seen = Seen(
            text_width=self._text_width(),
            context_width=width[0],
            channels=(self._shape(_CONV_IN)[1:] or (None,))[0],
            architecture=next(iter(architectures), None),
        )
        family = recognise(seen, where)
        for prefix, part in ((UNET_PREFIX, "UNet"), (VAE_PREFIX, "VAE")):
            if not any(name.startswith(prefix) for name in self.shapes):
                raise BadFile(
                    f"{where} is no complete checkpoint: it holds {len(self.shapes)} tensors, "
                    f"none of them of a {part} ({prefix}...). Give a full {family.name} file."
                )
        text_prefixes = (TEXT_ENCODER_PREFIX, _TRANSFORMERS_PREFIX)
        if not any(name.startswith(text_prefixes) for name in self.shapes):
            raise BadFile(
                f"{where} is no complete checkpoint: it holds no OpenCLIP text encoder "
                f"({TEXT_ENCODER_PREFIX}...). Give a full {family.name} file."
            )
        if width[0] != unet_config["cross_attention_dim"]:
            raise WrongModel(
                f"{where}: its text width is {width[0]}; a single file of {family.name} has "
                f"{unet_config['cross_attention_dim']}."
            )

    def _text_width(self) -> int | None:
        """Of a text encoder under transformers' names; SD 1.x has one under no others."""
        table = self._shape(f"{_TRANSFORMERS_PREFIX}embeddings.token_embedding.weight")
        if table:
            return table[-1]
        is_sd1 = any(name.startswith("cond_stage_model.transformer.") for name in self.shapes)
        return SD1.context_width if is_sd1 else None

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.shapes.get(name, ())

    def _fill_renamed(self, module: nn.Module, keys: dict[str, str], dtype: torch.dtype) -> None:
        stored = read_weights(self.path, list(keys.values()))
        own = module.state_dict()
        weights = {}
        for name, key in keys.items():
            value = stored[key]
            if value.dim() != own[name].dim() and value.numel() == own[name].numel():
                value = value.reshape(own[name].shape)  # 1 x 1 convolution against Linear
            weights[name] = value
        fill_module(module, weights, self.path, dtype)

    def _fill_text_encoder(self, module: nn.Module) -> None:
        names = [
            name.removeprefix(TEXT_PREFIX)
            for name in module.state_dict()
            if "position_ids" not in name
        ]
        plain: dict[str, tuple[str, int | None]]
        if any(name.startswith(_TRANSFORMERS_PREFIX) for name in self.shapes):
            plain = {name: (_TRANSFORMERS_PREFIX + name, None) for name in names}
        else:
            plain = {name: text_key(name) for name in names}
        stored = read_weights(self.path, sorted({key for key, _ in plain.values()}))
        weights = {
            TEXT_PREFIX + name: stored[key] if third is None else _third(stored[key], third)
            for name, (key, third) in plain.items()
        }
        fill_module(module, weights, self.path)


def _third(stacked: Tensor, which: int) -> Tensor:
    """Query, key or value of the three; what is no stack of three stays, and won't fit."""
    rows = len(stacked) if stacked.dim() else 0
    return stacked.chunk(3)[which] if rows and rows % 3 == 0 else stacked


def unet_names(unet: nn.Module, config: dict[str, Any]) -> dict[str, str]:
    """For each weight of a UNet2DConditionModel its name in a single file."""
    attention = ["CrossAttn" in kind for kind in config["up_block_types"]]
    layers = int(config["layers_per_block"])
    return {name: unet_key(name, layers, attention) for name in unet.state_dict()}
