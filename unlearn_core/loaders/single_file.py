"""A Stable Diffusion checkpoint in one safetensors file -> a diffusers pipeline, offline.

diffusers' own from_single_file asks the network for configurations, so the few names are turned
here; the configurations ship in configs/.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import BadFile, WrongModel
from ..files.input_files import is_file
from ..files.tensor_file import read_shapes
from ..models.families import SDXL, Family, Prediction, Seen, recognise
from .ldm_keys import (
    OPEN_CLIP_PREFIXES,
    SECOND_PREFIX,
    TRANSFORMERS_PREFIXES,
    UNET_PREFIX,
    VAE_PREFIX,
    text_key,
    unet_key,
    vae_key,
)
from .model_configs import SINGLE_FILE_HINT, guess_prediction, published_configs
from .model_files import PROJECTION, TEXT_PREFIX, fill_module, read_weights, reshaped
from .pipeline_parts import assemble_pipeline, empty_parts, vae_dtype

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_CONV_IN = f"{UNET_PREFIX}input_blocks.0.0.weight"
_TURBO_PREFIX = "conditioner.embedders.0.model."
"""Before the one text encoder of SD-Turbo; other SD2 files call it otherwise."""
TURBO_NAME = re.compile(r"(?<![a-z])(turbo|lightning)(?![a-z])", re.IGNORECASE)
_V, _ZERO_SNR = "v_pred", "ztsnr"
"""Tensors that say by being there what the UNet predicts, and that its noise ends at no signal."""
_MOST_SIDECAR = 2**20

_OTHER_ARCHITECTURES = {
    f"{UNET_PREFIX}joint_blocks.": "Stable Diffusion 3",
    f"{UNET_PREFIX}double_blocks.": "Flux",
    "edm_mean": "Playground v2.5, whose noise is of another kind (EDM)",
    "edm_vpred.sigma_max": "a model with another kind of noise (EDM), as CosXL",
}


class _StoredText(NamedTuple):
    """Where a file holds a text encoder, and in which library's names."""

    prefix: str
    open_clip: bool

    @property
    def table(self) -> str:
        """The name of its token table."""
        between = "" if self.open_clip else "embeddings."
        return f"{self.prefix}{between}token_embedding.weight"


class SingleFile:
    """A checkpoint file whose header was read and found to be of a known family."""

    family: Family

    def __init__(self, path: Path) -> None:
        """Read and check the header.

        Raises BadFile for a missing, truncated or pickled file and for one that is no checkpoint;
        WrongModel for one of another family.
        """
        self.path = path
        self.shapes = read_shapes(path)
        self._texts = self._stored_texts()
        self.family = self._recognise()
        self._check_complete()
        self.configs = published_configs(self.family)
        width, usual = self._context_width(), self.configs["unet"]["cross_attention_dim"]
        if width != usual:
            raise WrongModel(
                f"{path}: its text width is {width}; a single file of {self.family.name} has "
                f"{usual}."
            )

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
        if _V in self.shapes:
            return "v", f"the file's {_V} says so"
        name = SINGLE_FILE_HINT[0]
        there = read_weights(self.path, [name]) if name in self.shapes else {}
        return guess_prediction(self.family, there, SINGLE_FILE_HINT)

    def load_pipeline(self, prediction: Prediction, dtype: torch.dtype) -> DiffusionPipeline:
        """The checkpoint as a frozen pipeline on the CPU, without safety checker.

        UNet and VAE become `dtype` (see vae_dtype), text encoders float32. Raises BadFile if
        weights are missing or misshapen.
        """
        edge = self.family.latent_edges[prediction]
        configs = {**self.configs, "unet": {**self.configs["unet"], "sample_size": edge}}
        scheduler_config = configs.pop("scheduler")
        unet, vae, *text_encoders = empty_parts(*configs.values())
        self._fill(unet, unet_names(unet, configs["unet"]), dtype)
        levels = len(configs["vae"]["block_out_channels"])
        names = {name: vae_key(name, levels) for name in vae.state_dict()}
        self._fill(vae, names, vae_dtype(self.family, dtype))
        for text_encoder, stored in zip(text_encoders, self._texts, strict=True):
            self._fill_text_encoder(text_encoder, stored)
        kind = {"v": "v_prediction", "epsilon": "epsilon"}[prediction]
        noise = {
            "prediction_type": kind,
            "rescale_betas_zero_snr": _ZERO_SNR in self.shapes,
            "timestep_spacing": "trailing" if self._is_distilled() else "leading",
        }
        return assemble_pipeline(
            self.family, {**scheduler_config, **noise}, unet, vae, *text_encoders
        )

    def _is_distilled(self) -> bool:
        """By the names that only SD-Turbo gives its text encoder, else by the file's own name."""
        turbo = self.family is not SDXL and self._texts[0].prefix == _TURBO_PREFIX
        return turbo or TURBO_NAME.search(self.path.stem) is not None

    def _stored_texts(self) -> list[_StoredText]:
        """The first text encoder that is there, and a second one."""
        prefixes = [(prefix, False) for prefix in TRANSFORMERS_PREFIXES]
        prefixes += [(prefix, True) for prefix in OPEN_CLIP_PREFIXES]
        found = [_StoredText(*one) for one in prefixes if self._any(one[0])][:1]
        return found + [_StoredText(SECOND_PREFIX, True)] * self._any(SECOND_PREFIX)

    def _recognise(self) -> Family:
        others = [kind for prefix, kind in _OTHER_ARCHITECTURES.items() if self._any(prefix)]
        widths = [self._last(stored.table) for stored in self._texts]
        has_added = self._any(f"{UNET_PREFIX}label_emb.")
        is_refiner = SDXL.towers[-1].width in (*widths, self._context_width())
        projections = [
            len(shape) == 2
            for name, shape in self.shapes.items()
            if name.endswith("proj_in.weight")
        ]
        count = 2 if self._any(SECOND_PREFIX) else 1
        is_told = len(widths) == count and None not in widths
        return recognise(
            Seen(
                text_encoders=count,
                text_width=sum(filter(None, widths)) if is_told else None,
                context_width=self._context_width(),
                channels=(self.shapes.get(_CONV_IN, ())[1:] or (None,))[0],
                linear_projections=next(iter(projections), None),
                pooled=has_added if count == 2 and self._any(UNET_PREFIX) else None,
                extra_conditions=has_added and count == 1 and not is_refiner,
                architecture=next(iter(others), None),
            ),
            str(self.path),
        )

    def _check_complete(self) -> None:
        for prefix, part in ((UNET_PREFIX, "UNet"), (VAE_PREFIX, "VAE")):
            if not self._any(prefix):
                raise BadFile(
                    f"{self.path} is no complete checkpoint: it holds {len(self.shapes)} tensors, "
                    f"none of them of a {part} ({prefix}...). Give a full {self.family.name} file."
                )
        needed = len(self.family.towers)
        if len(self._texts) < needed:
            raise BadFile(
                f"{self.path} is no complete checkpoint: it holds {len(self._texts)} of {needed} "
                f"text encoders. Give a full {self.family.name} file."
            )

    def _context_width(self) -> int | None:
        keys = (name for name in self.shapes if name.endswith("attn2.to_k.weight"))
        return self._last(next((name for name in keys if name.startswith(UNET_PREFIX)), ""))

    def _any(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.shapes)

    def _last(self, name: str) -> int | None:
        """The last edge of a tensor's shape."""
        return (self.shapes.get(name) or (None,))[-1]

    def _fill(self, module: nn.Module, keys: dict[str, str], dtype: torch.dtype) -> None:
        stored = read_weights(self.path, list(keys.values()))
        weights = {name: stored[key] for name, key in keys.items()}
        fill_module(module, reshaped(module, weights), self.path, dtype)

    def _fill_text_encoder(self, module: nn.Module, stored: _StoredText) -> None:
        names = [
            name.removeprefix(TEXT_PREFIX)
            for name in module.state_dict()
            if "position_ids" not in name and name != PROJECTION
        ]
        if stored.open_clip:
            places = {name: text_key(name, stored.prefix) for name in names}
        else:
            places = {name: (stored.prefix + name, None) for name in names}
        found = read_weights(self.path, sorted({key for key, _ in places.values()}))
        weights = {
            TEXT_PREFIX + name: found[key] if third is None else _third(found[key], third)
            for name, (key, third) in places.items()
        }
        if PROJECTION in module.state_dict():
            weights[PROJECTION] = self._projection(stored.prefix)
        fill_module(module, weights, self.path)

    def _projection(self, prefix: str) -> Tensor:
        """OpenCLIP multiplies from the left; some files hold it turned already."""
        turned = f"{prefix}{PROJECTION}"
        if turned in self.shapes:
            return read_weights(self.path, [turned])[turned]
        name = f"{prefix}text_projection"
        return read_weights(self.path, [name])[name].T.contiguous()


def _third(stacked: Tensor, which: int) -> Tensor:
    """Query, key or value of the three; what is no stack of three stays, and won't fit."""
    rows = len(stacked) if stacked.dim() else 0
    return stacked.chunk(3)[which] if rows and rows % 3 == 0 else stacked


def unet_names(unet: nn.Module, config: dict[str, Any]) -> dict[str, str]:
    """For each weight of a UNet2DConditionModel its name in a single file."""
    attention = ["CrossAttn" in kind for kind in config["up_block_types"]]
    layers = int(config["layers_per_block"])
    return {name: unet_key(name, layers, attention) for name in unet.state_dict()}
