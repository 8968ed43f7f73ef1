"""Write a single-file checkpoint with Stable Diffusion 2's names and shapes and random weights.

    python -m bench.cost.full_size_checkpoint FILE.safetensors [--prediction v]

No SD2 weights are needed to test that loaders, key names and memory work at the real size: 2.6 GB
in float16. Pictures drawn with it are noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from unlearn_core import single_file
from unlearn_core.ldm_keys import TEXT_ENCODER_PREFIX, UNET_PREFIX, text_key, vae_key
from unlearn_core.lent_model import Prediction
from unlearn_core.model_files import TEXT_PREFIX, read_json
from unlearn_core.pipeline_folder import empty_parts

_SLIM = {
    "block_out_channels": [320],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 5,
}
_NOISE_LENGTH = 1_048_573  # a prime, so that rows of a weight differ


def write_checkpoint(
    path: Path,
    prediction: Prediction = "epsilon",
    seed: int = 0,
    dtype: torch.dtype = torch.half,
    slim: bool = False,
) -> None:
    """Write the file; its shapes come from single_file.CONFIGS_FOLDER.

    `prediction` sets the spread of the one bias by which loaders tell v models; `slim` leaves the
    UNet one level of one block, so that 0.9 GB still hold the whole text encoder.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(_NOISE_LENGTH, generator=generator).mul_(0.02).to(dtype)
    weights = {key: _draw(key, shape, noise) for key, shape in checkpoint_shapes(slim).items()}
    hint = f"{UNET_PREFIX}output_blocks.11.1.transformer_blocks.0.norm1.bias"
    if prediction == "v" and not slim:
        weights[hint] = weights[hint] * 10
    save_file(weights, str(path), metadata={"format": "pt"})


def checkpoint_shapes(slim: bool = False) -> dict[str, tuple[int, ...]]:
    """Every weight's single-file name and shape, with the text layer that SD2 leaves unused."""
    folder = single_file.CONFIGS_FOLDER
    unet_config, vae_config, text_config = (
        read_json(folder / f"{part}.json") for part in ("unet", "vae", "text_encoder")
    )
    if slim:
        unet_config = {**unet_config, **_SLIM}
    text_config = {**text_config, "num_hidden_layers": text_config["num_hidden_layers"] + 1}
    unet, vae, text_encoder = empty_parts(unet_config, vae_config, text_config)
    own = unet.state_dict()
    names = single_file.unet_names(unet, unet_config)
    shapes = {key: tuple(own[name].shape) for name, key in names.items()}
    levels = len(vae_config["block_out_channels"])
    for name, value in vae.state_dict().items():
        key = vae_key(name, levels)
        is_projection = ".attn_1." in key and value.dim() == 2
        shapes[key] = (*value.shape, 1, 1) if is_projection else tuple(value.shape)
    for name, value in text_encoder.state_dict().items():
        if "position_ids" in name:
            continue
        key, third = text_key(name.removeprefix(TEXT_PREFIX))
        rows = value.shape[0] * (1 if third is None else 3)
        shapes[key] = (rows, *value.shape[1:])
    width = int(text_config["hidden_size"])
    shapes[f"{TEXT_ENCODER_PREFIX}text_projection"] = (width, width)
    shapes[f"{TEXT_ENCODER_PREFIX}logit_scale"] = ()
    return shapes


def _draw(key: str, shape: tuple[int, ...], noise: Tensor) -> Tensor:
    count = torch.Size(shape).numel()
    start = sum(key.encode()) * 7919 % (len(noise) // 2)  # another stretch for each weight
    if start + count > len(noise):
        noise = noise.repeat((start + count) // len(noise) + 1)
    values = noise[start : start + count]
    is_scale = len(shape) == 1 and key.endswith(".weight")
    return (values + 1 if is_scale else values.clone()).reshape(shape)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write a random full-size SD2 single file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--prediction", choices=("epsilon", "v"), default="epsilon")
    arguments = parser.parse_args()
    write_checkpoint(arguments.file, arguments.prediction)


if __name__ == "__main__":
    _main()
