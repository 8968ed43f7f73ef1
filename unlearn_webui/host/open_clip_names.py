"""Weights of an OpenCLIP text tower, as AUTOMATIC1111 holds it, under CLIPTextModel's names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from unlearn_core.loaders.ldm_keys import TEXT_ENCODER_PREFIX, text_key
from unlearn_core.loaders.model_files import TEXT_PREFIX
from unlearn_core.lora.keys import ATTENTION, MLP

_HIJACKED = ".wrapped."
"""The host wraps the table of word vectors, so that embeddings can take a word's place."""
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


def hugging_face_weights(tower: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, float32 on the CPU, of the state dict of an open_clip model without its visual part.

    OpenCLIP's q, k and v are the thirds of one matrix. Raises KeyError if a weight is missing.
    """
    stored = {name.replace(_HIJACKED, "."): value for name, value in tower.items()}
    weights = {}
    for name in _names(count_layers(stored)):
        key, third = text_key(name)
        value = stored[key.removeprefix(TEXT_ENCODER_PREFIX)]
        part = value if third is None else value.chunk(3)[third]
        weights[TEXT_PREFIX + name] = part.detach().to("cpu", torch.float32, copy=True)
    return weights


def count_layers(names: Iterable[str]) -> int:
    """How many transformer blocks the names of an OpenCLIP state dict speak of."""
    found = (re.match(r"transformer\.resblocks\.(\d+)\.", name) for name in names)
    return len({match[1] for match in found if match})


def _names(layers: int) -> Iterable[str]:
    yield from _ENDS
    for layer in range(layers):
        for module in _LAYER:
            for end in ("weight", "bias"):
                yield f"encoder.layers.{layer}.{module}.{end}"
