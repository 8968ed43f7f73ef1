"""Text encoders' weights as the modules in which the WebUIs hold them.

tests/ is no package; conftest.py loads this file under the plain name `webui_slim_towers`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_core.loaders.ldm_keys import TEXT_ENCODER_PREFIX, text_key
from unlearn_core.loaders.model_files import PROJECTION
from unlearn_core.text.clip_model import layer_count


def tree(weights: dict[str, Tensor], trainable: bool = False) -> nn.Module:
    """A module whose state dict is `weights`."""
    root = nn.Module()
    for name, value in weights.items():
        *folders, last = name.split(".")
        part = root
        for folder in folders:
            if folder not in part._modules:
                part.add_module(folder, nn.Module())
            part = part._modules[folder]  # type: ignore[assignment]
        part.register_parameter(last, nn.Parameter(value.clone(), requires_grad=trainable))
    return root


def transformers_tower(weights: dict[str, Tensor], activation: str) -> Any:
    """A CLIPTextModel as the hosts hold it, its table of word vectors wrapped."""
    table = "token_embedding."
    tower: Any = tree({name.replace(table, f"{table}wrapped."): v for name, v in weights.items()})
    width = len(weights["text_model.final_layer_norm.weight"])
    tower.config = SimpleNamespace(hidden_size=width, hidden_act=activation)
    return tower


def open_clip_tower(weights: dict[str, Tensor], layers: int) -> Any:
    """An open_clip model of as many layers; those that are not given are zeros."""
    own = layer_count(weights)
    last = f".layers.{own - 1}."
    further = {
        name.replace(last, f".layers.{layer}."): torch.zeros_like(value)
        for layer in range(own, layers)
        for name, value in weights.items()
        if last in name
    }
    thirds: dict[str, list[Tensor]] = {}
    state = {}
    for name, value in {**weights, **further}.items():
        if name == PROJECTION:
            state["text_projection"] = value.T
            continue
        key, third = text_key(name.removeprefix("text_model."))
        key = key.removeprefix(TEXT_ENCODER_PREFIX)
        if third is None:
            state[key.replace("token_embedding.", "token_embedding.wrapped.")] = value
        else:
            thirds.setdefault(key, [value] * 3)[third] = value
    return tree(state | {key: torch.cat(parts) for key, parts in thirds.items()})
