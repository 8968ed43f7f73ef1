"""Weights of the hosts' text encoders under CLIPTextModel's names: OpenCLIP's, and transformers'.

All are copies on the CPU, in their own dtype, or in float32 where that is none that computes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from unlearn_core.loaders.ldm_keys import TEXT_ENCODER_PREFIX, text_key
from unlearn_core.loaders.model_files import PROJECTION, TEXT_PREFIX
from unlearn_core.lora.keys import ATTENTION, MLP

WHOLE_NUMBERS = (torch.float32, torch.float16, torch.bfloat16)
"""Dtypes that compute."""
_HIJACKED = ".wrapped."
"""The hosts wrap the table of word vectors, so that embeddings can take a word's place."""
_OPEN_CLIP_PROJECTION = "text_projection"
_ENDS = (
    "embeddings.token_embedding.weight",
    "embeddings.position_embedding.weight",
    "final_layer_norm.weight",
    "final_layer_norm.bias",
)
_LAYER = (
    "layer_norm1",
    "layer_norm2",
    *(f"self_attn.{module}" for module in ATTENTION),
    *(f"mlp.{module}" for module in MLP),
)


def from_open_clip(tower: Mapping[str, Tensor], pooled: bool = False) -> dict[str, Tensor]:
    """From the state dict of an open_clip model without its visual part.

    OpenCLIP's q, k and v are the thirds of one matrix. With `pooled` its text projection is there
    too, (out, in) as a Linear has it. Raises KeyError if a weight is missing.
    """
    stored = {name.replace(_HIJACKED, "."): value for name, value in tower.items()}
    weights = {}
    for name in _names(open_clip_layers(stored)):
        key, third = text_key(name)
        value = stored[key.removeprefix(TEXT_ENCODER_PREFIX)]
        weights[TEXT_PREFIX + name] = _copy(value if third is None else value.chunk(3)[third])
    if pooled:
        weights[PROJECTION] = _copy(stored[_OPEN_CLIP_PROJECTION].T)
    return weights


def from_transformers(model: Mapping[str, Tensor], pooled: bool = False) -> dict[str, Tensor]:
    """From the state dict of a CLIPTextModel; with `pooled` its text projection too."""
    wanted = (TEXT_PREFIX, PROJECTION) if pooled else TEXT_PREFIX
    return {
        name.replace(_HIJACKED, "."): _copy(value)
        for name, value in model.items()
        if name.startswith(wanted) and "position_ids" not in name
    }


def open_clip_layers(names: Iterable[str]) -> int:
    """How many transformer blocks the names of an OpenCLIP state dict speak of."""
    found = (re.match(r"transformer\.resblocks\.(\d+)\.", name) for name in names)
    return len({match[1] for match in found if match})


def _names(layers: int) -> Iterable[str]:
    yield from _ENDS
    for layer in range(layers):
        for module in _LAYER:
            for end in ("weight", "bias"):
                yield f"encoder.layers.{layer}.{module}.{end}"


def _copy(weight: Tensor) -> Tensor:
    dtype = weight.dtype if weight.dtype in WHOLE_NUMBERS else torch.float32
    return weight.detach().to("cpu", dtype, copy=True)
