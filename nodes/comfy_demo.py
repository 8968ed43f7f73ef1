"""The small models of demo/, one of each family, as real MODEL, CLIP and VAE of ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management as management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import folder_paths
import torch
from comfy.ldm.modules.diffusionmodules import model as comfy_vae
from torch import Tensor, nn

from ..unlearn_core.errors import BadFile
from ..unlearn_core.files.input_files import is_file, is_folder, read_json
from ..unlearn_core.loaders.demo_model import DEMOS, demo_folder, demo_folders
from ..unlearn_core.loaders.ldm_keys import UNET_PREFIX, unet_key
from ..unlearn_core.loaders.model_files import PROJECTION, TEXT_PREFIX, read_weights, reshaped
from ..unlearn_core.loaders.pipeline_folder import restore_token_table
from .comfy_dynamic import plain_weights

FAMILIES = tuple(DEMOS.values())
_UNET_FILE, _TEXT_FILE = "diffusion_pytorch_model.safetensors", "model.safetensors"


class _PredictsV:
    """The stock classes look for a prediction in layers that these models lack."""

    def model_type(self, state_dict: Any, prefix: str = "") -> Any:
        return comfy.model_base.ModelType.V_PREDICTION


class DemoSD1(_PredictsV, comfy.supported_models.SD15):
    """ComfyUI's SD 1 with the demo model's sizes."""

    unet_extra_config: ClassVar[dict[str, Any]] = comfy.supported_models_base.BASE.unet_extra_config


class DemoSD2(_PredictsV, comfy.supported_models.SD20):
    """ComfyUI's SD 2 with the demo model's sizes."""


class DemoSDXL(_PredictsV, comfy.supported_models.SDXL):
    """ComfyUI's SDXL with the demo model's sizes, and the VAE of the others."""

    latent_format = comfy.latent_formats.SD15


_SHAPES: dict[str, Any] = {"sd1": DemoSD1, "sd2": DemoSD2, "sdxl": DemoSDXL}
_TEXT_ENCODERS = {
    "sd1": {"clip_l": "text_encoder"},
    "sd2": {"clip_h": "text_encoder"},
    "sdxl": {"clip_l": "text_encoder", "clip_g": "text_encoder_2"},
}
"""What ComfyUI calls a family's text encoders, and their folders."""


def is_demo(model: Any) -> bool:
    """Whether MODEL is a demo model, patched or not."""
    return isinstance(model.model.model_config, tuple(_SHAPES.values()))


def load_demo(family: str = "sd2") -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE, float32, of "sd1", "sd2" or "sdxl".

    Raises BadFile if a file of demo/ is missing or damaged.
    """
    with plain_weights():
        return load_unet(family), _load_clip(family), _load_vae(demo_folder() / "model")


def load_unet(family: str = "sd2", stored: torch.dtype = torch.float32) -> Any:
    """MODEL, its weights of the dtype `stored`, computing in float32."""
    folders = _folders(family)
    config = read_json(_nearest(folders, "unet", "config.json"))
    blocks = config["layers_per_block"]
    shape = _SHAPES[family](_unet_config(config))
    shape.set_inference_dtype(stored, None if stored == torch.float32 else torch.float32)
    device, offload = management.get_torch_device(), management.unet_offload_device()
    unet = shape.get_model({}, "", device=offload)
    if config["addition_embed_type"] is not None:
        unet.embedder = comfy.model_base.Timestep(config["addition_time_embed_dim"])
    files = [folder / "unet" / _UNET_FILE for folder in reversed(folders)]
    weights = {n: v for file in files if is_file(file) for n, v in read_weights(file).items()}
    up_blocks = ["Attn" in kind for kind in config["up_block_types"]]
    named = {
        unet_key(name, blocks, up_blocks).removeprefix(UNET_PREFIX): value.float()
        for name, value in weights.items()
    }
    _fill(unet.diffusion_model, named, folders[0] / "unet")
    return comfy.model_patcher.ModelPatcher(unet, load_device=device, offload_device=offload)


def _folders(family: str) -> tuple[Path, ...]:
    folders = demo_folders(family)
    for folder in folders:
        if not is_folder(folder):
            raise BadFile(f"The demo model {folder} is missing: install this pack again.")
    return folders


def _nearest(folders: Sequence[Path], part: str, name: str) -> Path:
    """Of the folders the first that has this file; where none has it, where it should be."""
    paths = [folder / part / name for folder in folders]
    return next((path for path in paths if is_file(path)), paths[0])


def _unet_config(config: dict[str, Any]) -> dict[str, Any]:
    """diffusers' config of a UNet as ComfyUI has it."""
    blocks, widths = config["layers_per_block"], config["block_out_channels"]
    attention = [int("Attn" in kind) for kind in config["down_block_types"]]
    return {
        "image_size": config["sample_size"],
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [blocks] * len(widths),
        "transformer_depth": [depth for depth in attention for _ in range(blocks)],
        "transformer_depth_output": [depth for depth in attention for _ in range(blocks + 1)],
        "transformer_depth_middle": 1,
        "context_dim": config["cross_attention_dim"],
        "use_linear_in_transformer": config["use_linear_projection"],
        "use_spatial_transformer": True,
        "num_classes": None if config["addition_embed_type"] is None else "sequential",
        "adm_in_channels": config["projection_class_embeddings_input_dim"],
        "use_checkpoint": False,
        "legacy": False,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }


def _load_clip(family: str) -> Any:
    folders, texts = _folders(family), _TEXT_ENCODERS[family]
    configs = {
        name: read_json(_nearest(folders, part, "config.json")) for name, part in texts.items()
    }
    sizes = {f"{name}_model_config": _text_sizes(name, config) for name, config in configs.items()}
    clip = comfy.sd.CLIP(
        _SHAPES[family]({}).clip_target(),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={**sizes, "dtype": torch.float32},
    )
    for name, part in texts.items():
        file = _nearest(folders, part, _TEXT_FILE)
        getattr(clip.tokenizer, name).embedding_size = configs[name]["hidden_size"]
        text = getattr(clip.cond_stage_model, name).transformer
        weights = {
            key if key.startswith((TEXT_PREFIX, PROJECTION)) else TEXT_PREFIX + key: value
            for key, value in read_weights(file).items()
        }
        weights = restore_token_table(weights, configs[name]["vocab_size"])
        _fill(text, {**_unused(text, configs[name]), **weights}, file)
    return clip


def _text_sizes(name: str, config: dict[str, Any]) -> dict[str, int]:
    keys = ("intermediate_size", "num_attention_heads", "num_hidden_layers", "hidden_size")
    sizes = {key: config[key] for key in keys}
    # SD2's conditioning is the layer before the last, which its file leaves out.
    return {**sizes, "num_hidden_layers": sizes["num_hidden_layers"] + (name == "clip_h")}


def _unused(text: nn.Module, config: dict[str, Any]) -> dict[str, Tensor]:
    """What the files leave out: a last layer, and a projection to a pooled vector."""
    last = f"{TEXT_PREFIX}encoder.layers.{config['num_hidden_layers']}."
    found = {n: torch.zeros_like(v, device="cpu") for n, v in text.state_dict().items()}
    zeros = {name: value for name, value in found.items() if name.startswith(last)}
    return {**zeros, PROJECTION: torch.eye(config["hidden_size"])}


def _load_vae(folder: Path) -> Any:
    config = read_json(folder / "vae" / "config.json")
    widths = config["block_out_channels"]
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    sizes = {
        "double_z": True,
        "z_channels": 4,
        "resolution": config["sample_size"],
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [_Width(width) for width in widths],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    weights = {name: value.float() for name, value in read_weights(file).items()}
    with _norm_groups(config["norm_num_groups"]):
        return comfy.sd.VAE(
            sd=weights, config={"params": {"ddconfig": sizes, "embed_dim": 4}}, dtype=torch.float32
        )


class _Width:
    """A width where ComfyUI expects a whole factor of the first one."""

    def __init__(self, width: int) -> None:
        self._width = width

    def __rmul__(self, _: int) -> int:
        return self._width


@contextmanager
def _norm_groups(groups: int) -> Iterator[None]:
    """Inside, ComfyUI's VAE is built with this many groups in its norms instead of 32."""
    stock = comfy_vae.ops

    class Operations(stock):  # type: ignore[misc, valid-type]
        @staticmethod
        def GroupNorm(num_groups: int, num_channels: int, **rest: Any) -> nn.Module:  # noqa: N802
            norm: nn.Module = stock.GroupNorm(groups, num_channels, **rest)
            return norm

    comfy_vae.ops = Operations
    try:
        yield
    finally:
        comfy_vae.ops = stock


def _fill(module: nn.Module, weights: dict[str, Tensor], file: Path) -> None:
    missing, unexpected = module.load_state_dict(reshaped(module, weights), strict=False)
    if missing or unexpected:
        raise BadFile(
            f"{file} does not fit: {len(missing)} weights are missing and {len(unexpected)} "
            f"unknown, the first is {(missing + unexpected)[0]}."
        )
