"""The configs of a diffusers model: whether they are of a known family, and numbers in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import WrongModel
from ..models.families import SD2, Family, Prediction, Seen, recognise, shown

TEXT_NUMBERS = ("hidden_size", "hidden_act", "num_hidden_layers", "vocab_size")
"""What `check_configs` looks at in a text encoder's config."""
_LARGEST_EDGE = 1024
"""Of latents; 8192 pixels."""
_MOST_LAYERS = 100
_COUNTS = ("num_hidden_layers", "layers_per_block", "transformer_layers_per_block")
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


def check_configs(unet: Any, text: Any, where: str) -> Family:
    """The family of these configs, of any size; raises WrongModel for others.

    Each is a dict or a config that has `get`; `where` names the model in the message.
    """
    width, layers = text.get("hidden_size"), text.get("num_hidden_layers")
    family = recognise(
        Seen(
            text_width=_stated(text, "hidden_size"),
            activations=(text.get("hidden_act", "quick_gelu"),),
            vocabulary=_stated(text, "vocab_size"),
            context_width=_stated(unet, "cross_attention_dim"),
            channels=_stated(unet, "in_channels"),
            extra_conditions=bool(unet.get("addition_embed_type") or unet.get("class_embed_type")),
        ),
        where,
    )
    (tower,) = family.towers
    if width == tower.width and layers == tower.layers:
        raise WrongModel(
            f"{where}: its text encoder has {layers} layers and would use the last one, but "
            f"{family.name} uses the one before: set num_hidden_layers to {layers - 1} in "
            "text_encoder/config.json."
        )
    if not _is_count(layers):
        raise WrongModel(
            f"{where}: num_hidden_layers in text_encoder/config.json is {shown(layers)}; a number "
            f"from 1 to {_MOST_LAYERS} is needed."
        )
    return family


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
                raise WrongModel(f"{folder}: {name} in its configs is {shown(value)}.")
        for name in _LISTS:
            if isinstance(config.get(name), list) and len(config[name]) > _MOST_LAYERS:
                raise WrongModel(f"{folder}: {name} in its configs has {len(config[name])} items.")


def guess_prediction(
    weights: Mapping[str, Tensor], hint: tuple[str, str]
) -> tuple[Prediction, str]:
    """What a UNet with these weights predicts, and the ground of the guess in words."""
    name, called = hint
    if name not in weights:
        return "epsilon", "guessed: the weights hold no hint; if pictures are noise, ask for v"
    spread = float(weights[name].float().std(unbiased=False))
    side = "above" if spread > _SPREAD else "not above"
    ground = f"guessed: the spread of {called}, {spread:.3f}, is {side} {_SPREAD}"
    return ("v" if spread > _SPREAD else "epsilon"), ground


def latent_size(stated: Any, prediction: Prediction) -> tuple[int, int]:
    """Height and width of latents from a UNet's `sample_size`: a number, a pair, or nothing said.

    SD2 predicts v where it draws 768 pixels. Raises WrongModel for anything else.
    """
    if stated is None:
        stated = SD2.latent_edges[prediction]
    edges = list(stated) if isinstance(stated, (list, tuple)) else [stated, stated]
    if len(edges) != 2 or not all(_is_whole(edge, _LARGEST_EDGE) for edge in edges):
        raise WrongModel(
            f"The UNet's sample_size is {shown(stated)}; a number from 1 to {_LARGEST_EDGE} or a "
            "pair of them is needed. Set it in unet/config.json: 64 for SD2-base, 96 for SD2."
        )
    return edges[0], edges[1]


def scaling_factor(stated: Any) -> float:
    """What a VAE's latents are multiplied by; raises WrongModel unless it is a positive number."""
    is_number = isinstance(stated, (int, float)) and not isinstance(stated, bool)
    if not is_number or not 0 < stated < math.inf:
        raise WrongModel(
            f"The VAE's scaling_factor is {shown(stated)}; a positive number is needed. Set it in "
            "vae/config.json: 0.18215 for Stable Diffusion 2."
        )
    return float(stated)


def _stated(config: Any, name: str) -> Any:
    value = config.get(name)
    return "nothing" if value is None else value


def _is_count(value: Any) -> bool:
    return _is_whole(value, _MOST_LAYERS)


def _is_whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
