"""Pipelines of every family in small: random weights, and for Stable Diffusion 2 the demo model.

tests/ is no package; conftest.py loads this file under the plain name `webui_slim_pipeline`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_core.loaders.demo_model import load_demo_pipeline
from unlearn_core.loaders.diffusers_model import DiffusersModel
from unlearn_core.loaders.model_configs import published_configs
from unlearn_core.loaders.model_files import fill_module
from unlearn_core.loaders.pipeline_parts import assemble_pipeline, empty_parts
from unlearn_core.models.families import FAMILIES, SD2, Family
from unlearn_core.text.tokenizer import BOS, EOS, PAD, VOCABULARY, tokenize
from unlearn_core.words.prompt_templates import FILLERS, GUARD_PROMPTS

_WORDS = " ".join(
    ("dog cat owl horse apple car house tree a photo picture of the", *FILLERS, *GUARD_PROMPTS)
)
"""That have vectors: a search among all words takes minutes."""
_TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
    "num_attention_heads": 1, "projection_dim": 64,
}  # fmt: skip
_UNET = {
    "sample_size": 8,
    "block_out_channels": [32] * 2, "layers_per_block": 1, "norm_num_groups": 8,
    "attention_head_dim": 1, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip
_SLIM: dict[str, dict[str, dict[str, Any]]] = {
    "sd1": {
        "unet": {**_UNET, "cross_attention_dim": 64},
        "vae": {"block_out_channels": [32] * 4, "layers_per_block": 1},
        "text_encoder": _TEXT,
    },
    "sdxl": {
        "unet": {
            **_UNET, "cross_attention_dim": 192, "transformer_layers_per_block": 1,
            "projection_class_embeddings_input_dim": 128 + 6 * 256,
        },
        "vae": {"block_out_channels": [32] * 4, "layers_per_block": 1},
        "text_encoder": _TEXT,
        "text_encoder_2": {
            **_TEXT, "hidden_size": 128, "num_attention_heads": 2, "projection_dim": 128,
        },
    },
}  # fmt: skip


def slim_pipeline(family: Family) -> Any:
    """A diffusers pipeline, the same weights at each call."""
    if family is SD2:
        return load_demo_pipeline()
    configs = published_configs(family)
    scheduler = configs.pop("scheduler")
    slim = {part: {**config, **_SLIM[family.key][part]} for part, config in configs.items()}
    parts = empty_parts(*slim.values())
    for seed, part in enumerate(parts):
        fill_module(part, _drawn(part, seed), Path(family.key))
    return assemble_pipeline(family, scheduler, *parts)


@cache
def _lent_by_diffusers(key: str) -> DiffusersModel:
    family = next(family for family in FAMILIES if family.key == key)
    return DiffusersModel(slim_pipeline(family), torch.float32)


def lent_by_diffusers(family: Family) -> DiffusersModel:
    """What diffusers lends of it, in float32 as the thin host computes."""
    return _lent_by_diffusers(family.key)


def _drawn(part: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def weight(name: str, shape: torch.Size) -> Tensor:
        drawn = torch.randn(shape, generator=generator)
        if len(shape) < 2:
            return 0.1 * drawn + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        return drawn / shape[1:].numel() ** 0.5

    own = part.state_dict()
    drawn = {name: weight(name, v.shape) for name, v in own.items() if "position_ids" not in name}
    for name in drawn:
        if name.endswith("token_embedding.weight"):
            known = torch.zeros(VOCABULARY, 1)
            known[[BOS, EOS, PAD, *tokenize(_WORDS)]] = 1
            drawn[name] *= known
    return drawn
