"""The configs of a diffusers model: whether they are of Stable Diffusion 2, and numbers in them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..errors import WrongModel
from ..text.tokenizer import ADDED_TOKENS, VOCABULARY
from .lent_model import Prediction

OPENCLIP_H_LAYERS = 24

TEXT_NUMBERS = ("hidden_size", "hidden_act", "num_hidden_layers", "vocab_size")
"""What `check_configs` looks at in a text encoder's config."""
_KINDS = {"9": "an inpainting model", "5": "a depth model", "7": "an upscaler"}
_LARGEST_EDGE = 1024
"""Of latents; 8192 pixels."""
_MOST_LAYERS = 100
_COUNTS = ("num_hidden_layers", "layers_per_block", "transformer_layers_per_block")
_LISTS = ("down_block_types", "up_block_types", "block_out_channels")


def check_configs(unet: Any, text: Any, where: str) -> None:
    """Raise WrongModel unless these are the configs of a Stable Diffusion 2 of any size.

    Each is a dict or a config that has `get`; `where` names the model in the message.
    """
    width, wanted = text.get("hidden_size"), unet.get("cross_attention_dim")
    if width == 768 and wanted == 768:
        raise WrongModel(
            f"{where}: this is SD 1.x: its text width is 768, this pack needs Stable Diffusion 2 "
            "(1024)."
        )
    channels = unet.get("in_channels")
    if channels != 4:
        kind = _KINDS.get(str(channels), "another kind of model")
        raise WrongModel(
            f"{where}: this is {kind}: its UNet takes {_shown(channels)} channels, this pack "
            "needs 4. Use the plain text-to-image model."
        )
    if unet.get("addition_embed_type") or unet.get("class_embed_type"):
        raise WrongModel(f"{where}: its UNet takes extra conditions, as SDXL and unCLIP do.")
    if width != wanted:
        raise WrongModel(
            f"{where}: its text encoder is {_shown(width)} wide and its UNet expects "
            f"{_shown(wanted)}: these parts are of two models."
        )
    if text.get("hidden_act", "quick_gelu") != "gelu":
        raise WrongModel(
            f"{where}: its text encoder is no OpenCLIP one, as Stable Diffusion 2 has it: its "
            f"activation is {_shown(text.get('hidden_act', 'quick_gelu'))}, not gelu."
        )
    layers = text.get("num_hidden_layers")
    if width == 1024 and layers == OPENCLIP_H_LAYERS:
        raise WrongModel(
            f"{where}: its text encoder has {layers} layers and would use the last one, but Stable "
            "Diffusion 2 uses the one before: set num_hidden_layers to 23 in "
            "text_encoder/config.json."
        )
    vocabulary = text.get("vocab_size")
    if vocabulary != VOCABULARY:
        raise WrongModel(
            f"{where}: its text encoder has {_shown(vocabulary)} tokens, Stable Diffusion 2 has "
            f"{VOCABULARY}. {ADDED_TOKENS}."
        )
    if not _is_count(layers):
        raise WrongModel(
            f"{where}: num_hidden_layers in text_encoder/config.json is {_shown(layers)}; a number "
            f"from 1 to {_MOST_LAYERS} is needed."
        )


def check_counts(folder: Path, *configs: dict[str, Any]) -> None:
    """Raise WrongModel for counts of layers and blocks that no such model has.

    The libraries would go on building such a model for hours.
    """
    for config in configs:
        for name in _COUNTS:
            value = config.get(name, 1)
            counts = value if isinstance(value, list) else [value]
            flat = [n for count in counts for n in (count if isinstance(count, list) else [count])]
            if len(flat) > _MOST_LAYERS or not all(_is_count(count) for count in flat):
                raise WrongModel(f"{folder}: {name} in its configs is {_shown(value)}.")
        for name in _LISTS:
            if isinstance(config.get(name), list) and len(config[name]) > _MOST_LAYERS:
                raise WrongModel(f"{folder}: {name} in its configs has {len(config[name])} items.")


def latent_size(stated: Any, prediction: Prediction) -> tuple[int, int]:
    """Height and width of latents from a UNet's `sample_size`: a number, a pair, or nothing said.

    SD2 predicts v where it draws 768 pixels. Raises WrongModel for anything else.
    """
    if stated is None:
        stated = 96 if prediction == "v" else 64
    edges = list(stated) if isinstance(stated, (list, tuple)) else [stated, stated]
    if len(edges) != 2 or not all(_is_whole(edge, _LARGEST_EDGE) for edge in edges):
        raise WrongModel(
            f"The UNet's sample_size is {_shown(stated)}; a number from 1 to {_LARGEST_EDGE} or a "
            "pair of them is needed. Set it in unet/config.json: 64 for SD2-base, 96 for SD2."
        )
    return edges[0], edges[1]


def scaling_factor(stated: Any) -> float:
    """What a VAE's latents are multiplied by; raises WrongModel unless it is a positive number."""
    is_number = isinstance(stated, (int, float)) and not isinstance(stated, bool)
    if not is_number or not 0 < stated < math.inf:
        raise WrongModel(
            f"The VAE's scaling_factor is {_shown(stated)}; a positive number is needed. Set it in "
            "vae/config.json: 0.18215 for Stable Diffusion 2."
        )
    return float(stated)


def _is_count(value: Any) -> bool:
    return _is_whole(value, _MOST_LAYERS)


def _is_whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
