"""Write a single-file checkpoint with a family's names and shapes and random weights.

No published weights are needed to test that loaders, key names and memory work at the real size:
2.6 GB in float16 for Stable Diffusion 2. Pictures drawn with it are noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from bench.cost.random_model import module_shapes, random_weights
from unlearn_core.loaders import single_file
from unlearn_core.loaders.ldm_keys import (
    SECOND_PREFIX,
    TEXT_ENCODER_PREFIX,
    TRANSFORMERS_PREFIXES,
    UNET_PREFIX,
    text_key,
    vae_key,
)
from unlearn_core.loaders.model_configs import published_configs
from unlearn_core.loaders.model_files import PROJECTION, TEXT_PREFIX
from unlearn_core.loaders.pipeline_parts import empty_parts
from unlearn_core.models.families import SD2, Family, Prediction

_SLIM = {
    "block_out_channels": [320],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 5,
    "transformer_layers_per_block": 1,
}
_PREFIXES = {
    "sd1": TRANSFORMERS_PREFIXES[:1],
    "sd2": (TEXT_ENCODER_PREFIX,),
    "sdxl": (TRANSFORMERS_PREFIXES[1], SECOND_PREFIX),
}
"""Before the weights of each text encoder."""


def write_checkpoint(
    path: Path,
    prediction: Prediction = "epsilon",
    dtype: torch.dtype = torch.half,
    slim: bool = False,
    family: Family = SD2,
) -> None:
    """Write the file; its shapes come from `published_configs`.

    `prediction` sets the spread of the one bias by which loaders tell v models of SD2; `slim`
    leaves the UNet one level of one block, so that 0.9 GB still hold the whole text encoder.
    """
    drawn = random_weights(checkpoint_shapes(slim, family), dtype)
    weights = {key: weight.clone() for key, weight in drawn.items()}  # no two may share memory
    hint = f"{UNET_PREFIX}output_blocks.11.1.transformer_blocks.0.norm1.bias"
    if prediction == "v" and not slim:
        weights[hint] = weights[hint] * 10
    save_file(weights, str(path), metadata={"format": "pt"})


def checkpoint_shapes(slim: bool = False, family: Family = SD2) -> dict[str, torch.Size]:
    """Every weight's single-file name and shape, with the text layer that SD2 leaves unused."""
    configs = published_configs(family)
    del configs["scheduler"]
    if slim:
        configs["unet"] |= _SLIM
    if family is SD2:
        configs["text_encoder"]["num_hidden_layers"] += 1
    unet, vae, *text_encoders = empty_parts(*configs.values())
    own = module_shapes(unet)
    names = single_file.unet_names(unet, configs["unet"])
    shapes = {key: own[name] for name, key in names.items()}
    levels = len(configs["vae"]["block_out_channels"])
    for name, shape in module_shapes(vae).items():
        key = vae_key(name, levels)
        is_projection = ".attn_1." in key and len(shape) == 2
        shapes[key] = torch.Size((*shape, 1, 1)) if is_projection else shape
    for text_encoder, prefix in zip(text_encoders, _PREFIXES[family.key], strict=True):
        shapes |= dict(_text_shapes(text_encoder, prefix))
    return shapes


def _text_shapes(text_encoder: nn.Module, prefix: str) -> Iterator[tuple[str, torch.Size]]:
    shapes = {name.removeprefix(TEXT_PREFIX): s for name, s in module_shapes(text_encoder).items()}
    width = shapes["final_layer_norm.weight"][0]
    shapes.pop(PROJECTION, None)
    for name, shape in shapes.items():
        if prefix in TRANSFORMERS_PREFIXES:
            yield prefix + name, shape
        else:
            key, third = text_key(name, prefix)
            yield key, torch.Size((shape[0] * (1 if third is None else 3), *shape[1:]))
    if prefix not in TRANSFORMERS_PREFIXES:
        yield f"{prefix}text_projection", torch.Size((width, width))
        yield f"{prefix}logit_scale", torch.Size(())
