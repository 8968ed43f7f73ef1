"""The small SD2 model of demo/ as a real MODEL, CLIP and VAE of ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management as management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import folder_paths
import torch
from comfy.ldm.modules.diffusionmodules import model as comfy_vae
from comfy.text_encoders.sd2_clip import SD2ClipModel
from torch import Tensor, nn

from ..unlearn_core.errors import BadFile
from ..unlearn_core.files.input_files import read_json
from ..unlearn_core.loaders.demo_model import demo_folder
from ..unlearn_core.loaders.ldm_keys import UNET_PREFIX, unet_key
from ..unlearn_core.loaders.model_files import TEXT_PREFIX, read_weights
from ..unlearn_core.loaders.pipeline_folder import restore_token_table


class DemoSD2(comfy.supported_models.SD20):
    """ComfyUI's SD 2 with the demo model's sizes; it predicts v."""

    def model_type(self, state_dict: Any, prefix: str = "") -> Any:
        """Always v: the detection of the stock class looks at layers that this model lacks."""
        return comfy.model_base.ModelType.V_PREDICTION


def is_demo(model: Any) -> bool:
    """Whether MODEL is the demo model, patched or not."""
    return isinstance(model.model.model_config, DemoSD2)


def load_demo() -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE, float32. Raises BadFile if a file of demo/ is missing or damaged."""
    folder = demo_folder() / "model"
    return load_unet(folder / "unet"), _load_clip(folder / "text_encoder"), _load_vae(folder)


def load_unet(folder: Path, stored: torch.dtype = torch.float32) -> Any:
    """MODEL from a diffusers folder, its weights of the dtype `stored`, computing in float32."""
    config = read_json(folder / "config.json")
    blocks, widths = config["layers_per_block"], config["block_out_channels"]
    attention = [int("Attn" in kind) for kind in config["down_block_types"]]
    unet_config = {
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
        "use_linear_in_transformer": True,
        "use_spatial_transformer": True,
        "adm_in_channels": None,
        "use_checkpoint": False,
        "legacy": False,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }
    shape = DemoSD2(unet_config)
    shape.set_inference_dtype(stored, None if stored == torch.float32 else torch.float32)
    device, offload = management.get_torch_device(), management.unet_offload_device()
    unet = shape.get_model({}, "", device=offload)
    file = folder / "diffusion_pytorch_model.safetensors"
    up_blocks = ["Attn" in kind for kind in config["up_block_types"]]
    weights = {
        unet_key(name, blocks, up_blocks).removeprefix(UNET_PREFIX): value.float()
        for name, value in read_weights(file).items()
    }
    _fill(unet.diffusion_model, weights, file)
    return comfy.model_patcher.ModelPatcher(unet, load_device=device, offload_device=offload)


def _load_clip(folder: Path) -> Any:
    config = read_json(folder / "config.json")
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    sizes = {key: config[key] for key in ("intermediate_size", "num_attention_heads")}
    # SD2's conditioning is the layer before the last: one more, which is never used.
    sizes |= {"hidden_size": width, "projection_dim": width, "num_hidden_layers": layers + 1}

    class Tokenizer(comfy.sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(
                pad_with_end=False,
                embedding_directory=embedding_directory,
                embedding_size=width,
                embedding_key="clip_h",
                tokenizer_data=tokenizer_data or {},
            )

    class Tokenizers(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(embedding_directory, tokenizer_data or {}, "h", Tokenizer)

    clip = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(Tokenizers, SD2ClipModel),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={"clip_h_model_config": sizes, "dtype": torch.float32},
    )
    file = folder / "model.safetensors"
    weights = {
        name if name.startswith(TEXT_PREFIX) else TEXT_PREFIX + name: value.float()
        for name, value in restore_token_table(read_weights(file), config["vocab_size"]).items()
    }
    text = clip.cond_stage_model.clip_h.transformer
    unused = f"{TEXT_PREFIX}encoder.layers.{layers}."
    extra = {
        name: torch.zeros_like(value, device="cpu")
        for name, value in text.state_dict().items()
        if name.startswith(unused)
    }
    extra["text_projection.weight"] = torch.eye(width)
    _fill(text, {**weights, **extra}, file)
    return clip


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
    missing, unexpected = module.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise BadFile(
            f"{file} does not fit: {len(missing)} weights are missing and {len(unexpected)} "
            f"unknown, the first is {(missing + unexpected)[0]}."
        )
