"""The configs of a diffusers model: whether they are of a known family, and numbers in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import WrongModel
from ..files.input_files import read_json
from ..models.families import (
    SD2,
    TIMESTEPS,
    Family,
    Prediction,
    Seen,
    prediction_named,
    recognise,
    shown,
)
from ..text.clip_model import TextTower
from ..text.tokenizer import VOCABULARY

CONFIGS_FOLDER = Path(__file__).parent / "configs"
LEAST_ALPHA = 4.8973451890853435e-08
"""In place of the zero with which a schedule of zero terminal SNR ends; ComfyUI's number."""
TEXT_NUMBERS = ("hidden_size", "hidden_act", "num_hidden_layers", "vocab_size")
"""What `check_configs` looks at in a text encoder's config."""
_OTHER_CONDITIONS = ("class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")
_LARGEST_EDGE = 1024
"""Of latents; 8192 pixels."""
_MOST_LAYERS = 100
_DEPTHS = "transformer_layers_per_block"
_COUNTS = ("num_hidden_layers", "layers_per_block", _DEPTHS)
_LISTS = ("down_block_types", "up_block_types", "block_out_channels")
SINGLE_FILE_HINT = (
    "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "output_blocks.11's norm1.bias",
)
"""The hint's name in a single file, and how a line for the user calls it."""
FOLDER_HINT = (
    "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
    "up_blocks.3.attentions.2's norm1.bias",
)
"""The same weight under diffusers' name."""
_SPREAD = 0.09
"""Above it the weights are of a v model; the hint and its bound are ComfyUI's (SD20.model_type)."""


class Schedule(NamedTuple):
    """The noise of a model, and how it is drawn with."""

    prediction: Prediction
    alphas_cumprod: Tensor
    """(1000,) float32 on the CPU, decreasing in (0, 1)."""
    is_distilled: bool
    """Whether few steps without guidance draw a picture: steps are trailing, and it predicts noise,
    as in SD-Turbo and SDXL-Turbo. Models of zero terminal SNR have trailing steps too."""


def published_configs(family: Family) -> dict[str, dict[str, Any]]:
    """Part ("unet", "vae", "text_encoder", ...) -> its config in the family's full-size models."""
    return read_json(CONFIGS_FOLDER / f"{family.key}.json")


def check_configs(unet: Any, texts: Sequence[Any], where: str) -> Family:
    """The family of these configs, of any size; raises WrongModel for others.

    Each is a dict or a config that has `get`, `texts` those of the text encoders; `where` names the
    model in the message.
    """
    widths = [_stated(text, "hidden_size") for text in texts]
    vocabularies = [_stated(text, "vocab_size") for text in texts]
    others = (unet.get(name) for name in _OTHER_CONDITIONS)
    added = unet.get("addition_embed_type")
    family = recognise(
        Seen(
            text_encoders=len(texts),
            text_width=_together(widths),
            activations=tuple(text.get("hidden_act", "quick_gelu") for text in texts),
            vocabulary=next((size for size in vocabularies if size != VOCABULARY), VOCABULARY),
            context_width=_stated(unet, "cross_attention_dim"),
            channels=_stated(unet, "in_channels"),
            pooled=added == "text_time",
            extra_conditions=any(others) or added not in (None, "text_time"),
        ),
        where,
    )
    for text, tower, end in zip(texts, family.towers, ("", "_2"), strict=False):
        _check_layers(text, tower, family, f"{where}: ", f"text_encoder{end}/config.json")
    return family


def _check_layers(text: Any, tower: TextTower, family: Family, where: str, file: str) -> None:
    layers = text.get("num_hidden_layers")
    is_whole = text.get("hidden_size") == tower.width and layers == tower.layers
    if is_whole and tower.normed and tower.conditioning_layer < tower.layers - 1:
        raise WrongModel(
            f"{where}its text encoder has {layers} layers and would use the last one, but "
            f"{family.name} uses the one before: set num_hidden_layers to {layers - 1} in {file}."
        )
    least = 1 if tower.normed else 2
    if not _is_count(layers, least):
        raise WrongModel(
            f"{where}num_hidden_layers in {file} is {shown(layers)}; a number from {least} to "
            f"{_MOST_LAYERS} is needed."
        )


def read_schedule(scheduler: Any) -> Schedule:
    """What a diffusers scheduler says; raises WrongModel where it is not a diffusion model's."""
    config = scheduler.config
    prediction = prediction_named(config.get("prediction_type", "epsilon"))
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(alphas, Tensor) or alphas.shape != (TIMESTEPS,):
        raise WrongModel(f"The scheduler has no table of {TIMESTEPS} timesteps.")
    if not bool(((alphas >= 0) & (alphas <= 1)).all()):  # also refuses NaN
        first, last = SD2.betas
        raise WrongModel(
            "The scheduler's noise is not that of a diffusion model: set beta_start to "
            f"{first} and beta_end to {last} in scheduler/scheduler_config.json."
        )
    own = alphas.detach().to("cpu", torch.float32, copy=True)
    trailing = config.get("timestep_spacing") == "trailing"
    rescaled = bool(config.get("rescale_betas_zero_snr"))
    few = trailing and prediction == "epsilon" and not rescaled
    return Schedule(prediction, own.clamp_min(LEAST_ALPHA), few)


def check_counts(folder: Path, *configs: dict[str, Any]) -> None:
    """Raise WrongModel for counts of layers and blocks that no such model has.

    The libraries would go on building such a model for hours.
    """
    for config in configs:
        for name in _COUNTS:
            value = config.get(name, 1)
            counts = value if isinstance(value, list) else [value]
            flat = [n for count in counts for n in (count if isinstance(count, list) else [count])]
            least = 0 if name == _DEPTHS else 1
            if len(flat) > _MOST_LAYERS or not all(_is_count(n, least) for n in flat):
                raise WrongModel(f"{folder}: {name} in its configs is {shown(value)}.")
        for name in _LISTS:
            if isinstance(config.get(name), list) and len(config[name]) > _MOST_LAYERS:
                raise WrongModel(f"{folder}: {name} in its configs has {len(config[name])} items.")


def guess_prediction(
    family: Family, weights: Mapping[str, Tensor], hint: tuple[str, str]
) -> tuple[Prediction, str]:
    """What a UNet with these weights predicts, and the ground of the guess in words."""
    name, called = hint
    if family is not SD2:
        return "epsilon", f"guessed: {family.name} does; if pictures are noise, ask for v"
    if name not in weights:
        return "epsilon", "guessed: the weights hold no hint; if pictures are noise, ask for v"
    spread = float(weights[name].float().std(unbiased=False))
    side = "above" if spread > _SPREAD else "not above"
    ground = f"guessed: the spread of {called}, {spread:.3f}, is {side} {_SPREAD}"
    return ("v" if spread > _SPREAD else "epsilon"), ground


def latent_size(stated: Any, family: Family, prediction: Prediction) -> tuple[int, int]:
    """Height and width of latents from a UNet's `sample_size`: a number, a pair, or nothing said.

    Where nothing is said, it is what such models are trained at. Raises WrongModel for anything
    else.
    """
    usual = family.latent_edges[prediction]
    stated = usual if stated is None else stated
    edges = list(stated) if isinstance(stated, (list, tuple)) else [stated, stated]
    if len(edges) != 2 or not all(_is_whole(edge, 1, _LARGEST_EDGE) for edge in edges):
        raise WrongModel(
            f"The UNet's sample_size is {shown(stated)}; a number from 1 to {_LARGEST_EDGE} or a "
            f"pair of them is needed. Set it in unet/config.json: {usual} is usual."
        )
    return edges[0], edges[1]


def scaling_factor(stated: Any, family: Family) -> float:
    """What a VAE's latents are multiplied by; raises WrongModel unless it is a positive number."""
    is_number = isinstance(stated, (int, float)) and not isinstance(stated, bool)
    if not is_number or not 0 < stated < math.inf:
        raise WrongModel(
            f"The VAE's scaling_factor is {shown(stated)}; a positive number is needed. Set it in "
            f"vae/config.json: {family.vae_scale} for {family.name}."
        )
    return float(stated)


def vae_factor(config: Any, family: Family) -> int:
    """How many times smaller latents are than pictures; raises WrongModel for an unusual VAE."""
    factor: int = 2 ** (len(config.block_out_channels) - 1)
    if factor != family.vae_factor:
        raise WrongModel(
            f"The VAE makes latents {factor} times smaller than pictures; those of "
            f"{family.name} are {family.vae_factor} times smaller."
        )
    return factor


def _stated(config: Any, name: str) -> Any:
    value = config.get(name)
    return "nothing" if value is None else value


def _together(widths: list[Any]) -> Any:
    """The sum, or the first that is no number."""
    odd = [width for width in widths if not isinstance(width, int)]
    return odd[0] if odd else sum(widths)


def _is_count(value: Any, least: int) -> bool:
    return _is_whole(value, least, _MOST_LAYERS)


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
