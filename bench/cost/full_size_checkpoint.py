"""Write a single-file checkpoint with Stable Diffusion 2's names and shapes and random weights.

No SD2 weights are needed to test that loaders, key names and memory work at the real size: 2.6 GB
in float16. Pictures drawn with it are noise.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from bench.cost.random_sd2 import module_shapes, random_weights
from unlearn_core.files.input_files import read_json
from unlearn_core.loaders import single_file
from unlearn_core.loaders.ldm_keys import TEXT_ENCODER_PREFIX, UNET_PREFIX, text_key, vae_key
from unlearn_core.loaders.model_files import TEXT_PREFIX
from unlearn_core.loaders.pipeline_folder import empty_parts
from unlearn_core.models.families import Prediction

_SLIM = {
    "block_out_channels": [320],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 5,
}


def write_checkpoint(
    path: Path,
    prediction: Prediction = "epsilon",
    dtype: torch.dtype = torch.half,
    slim: bool = False,
) -> None:
    """Write the file; its shapes come from single_file.CONFIGS_FOLDER.

    `prediction` sets the spread of the one bias by which loaders tell v models; `slim` leaves the
    UNet one level of one block, so that 0.9 GB still hold the whole text encoder.
    """
    drawn = random_weights(checkpoint_shapes(slim), dtype)
    weights = {key: weight.clone() for key, weight in drawn.items()}  # no two may share memory
    hint = f"{UNET_PREFIX}output_blocks.11.1.transformer_blocks.0.norm1.bias"
    if prediction == "v" and not slim:
        weights[hint] = weights[hint] * 10
    save_file(weights, str(path), metadata={"format": "pt"})


def checkpoint_shapes(slim: bool = False) -> dict[str, torch.Size]:
    """Every weight's single-file name and shape, with the text layer that SD2 leaves unused."""
    folder = single_file.CONFIGS_FOLDER
    unet_config, vae_config, text_config = (
        read_json(folder / f"{part}.json") for part in ("unet", "vae", "text_encoder")
    )
    if slim:
        unet_config = {**unet_config, **_SLIM}
    text_config = {**text_config, "num_hidden_layers": text_config["num_hidden_layers"] + 1}
    unet, vae, text_encoder = empty_parts(unet_config, vae_config, text_config)
    own = module_shapes(unet)
    names = single_file.unet_names(unet, unet_config)
    shapes = {key: own[name] for name, key in names.items()}
    levels = len(vae_config["block_out_channels"])
    for name, shape in module_shapes(vae).items():
        key = vae_key(name, levels)
        is_projection = ".attn_1." in key and len(shape) == 2
        shapes[key] = torch.Size((*shape, 1, 1)) if is_projection else shape
    for name, shape in module_shapes(text_encoder).items():
        key, third = text_key(name.removeprefix(TEXT_PREFIX))
        rows = shape[0] * (1 if third is None else 3)
        shapes[key] = torch.Size((rows, *shape[1:]))
    width = int(text_config["hidden_size"])
    shapes[f"{TEXT_ENCODER_PREFIX}text_projection"] = torch.Size((width, width))
    shapes[f"{TEXT_ENCODER_PREFIX}logit_scale"] = torch.Size(())
    return shapes
