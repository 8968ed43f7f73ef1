"""The trained families as demo/sd1 and demo/sdxl, and those folders as pipelines again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from bench.emoji_canvas.families.models import (
    OWN_PARTS,
    SD1,
    SDXL,
    first_config,
    second_config,
)
from bench.emoji_canvas.training.generator import Captions
from unlearn_core.loaders.demo_model import demo_folder
from unlearn_core.loaders.pipeline_folder import TOKEN_TABLE, restore_token_table
from unlearn_core.text import tokenizer
from unlearn_core.text.tokenizer import BOS, EOS, PAD, VOCABULARY

_PREFIX = TOKEN_TABLE.removesuffix("embeddings.token_embedding.weight")
_UNET, _TEXT = "diffusion_pytorch_model.safetensors", "model.safetensors"


def export_families(sd1: SD1, sdxl: SDXL, captions: Captions, out: Path) -> None:
    """OUT/sd1 and OUT/sdxl in float16, without what they share with demo/model or each other."""
    for name in ("sd1", "sdxl"):
        shutil.copytree(
            demo_folder() / "model" / "scheduler", out / name / "scheduler", dirs_exist_ok=True
        )
    first = first_config(VOCABULARY, BOS, EOS)
    _save_config(first, CLIPTextModel, out / "sd1" / "text_encoder")
    _save_text(sd1.text_encoder, captions, out / "sd1" / "text_encoder")
    _save_unet_config({**sd1.unet.config, "use_linear_projection": False}, out / "sd1" / "unet")
    _save_index(StableDiffusionPipeline, {"text_encoder": CLIPTextModel}, out / "sd1")

    _save_config(first, CLIPTextModel, out / "sdxl" / "text_encoder")
    second = second_config(VOCABULARY, BOS, EOS, PAD)
    _save_config(second, CLIPTextModelWithProjection, out / "sdxl" / "text_encoder_2")
    _save_text(sdxl.text_encoder_2, captions, out / "sdxl" / "text_encoder_2")
    _save_unet_config(dict(sdxl.unet.config), out / "sdxl" / "unet")
    own = {
        name: weight.half().contiguous()
        for name, weight in sdxl.unet.state_dict().items()
        if any(part in name for part in OWN_PARTS)
    }
    save_file(own, out / "sdxl" / "unet" / _UNET, metadata={"format": "pt"})
    towers = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    _save_index(StableDiffusionXLPipeline, towers, out / "sdxl")


def _save_config(config: CLIPTextConfig, tower: type, folder: Path) -> None:
    config.architectures = [tower.__name__]
    config.dtype = "float16"
    config.save_pretrained(folder)


def _save_text(tower: nn.Module, captions: Captions, folder: Path) -> None:
    """The tower's weights in float16, of its token table only the rows in use."""
    own = ("text_model.", "text_projection.")
    weights = {
        (name if name.startswith(own) else f"{_PREFIX}{name}"): weight.half().contiguous()
        for name, weight in tower.state_dict().items()
        if not name.endswith("position_ids")
    }
    rows = weights.pop(TOKEN_TABLE)
    weights |= {f"{TOKEN_TABLE}.rows": rows, f"{TOKEN_TABLE}.row_ids": captions.tokens.int()}
    save_file(weights, folder / _TEXT, metadata={"format": "pt"})


def _save_unet_config(config: Mapping[str, Any], folder: Path) -> None:
    with torch.device("meta"):
        UNet2DConditionModel.from_config(config).save_config(folder)


def _save_index(pipeline: type, towers: Mapping[str, type], folder: Path) -> None:
    parts: dict[str, Any] = {"_class_name": pipeline.__name__}
    for name, tower in towers.items():
        parts[name] = ["transformers", tower.__name__]
        parts[name.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"]
    parts |= {
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if pipeline is StableDiffusionXLPipeline:
        parts |= {"force_zeros_for_empty_prompt": True}
    else:
        parts |= {"requires_safety_checker": False, "safety_checker": [None, None]}
    text = json.dumps(dict(sorted(parts.items())), indent=2)
    (folder / "model_index.json").write_text(text + "\n", encoding="utf-8")


def load_family(folder: Path, name: str) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """FOLDER/sd1 or FOLDER/sdxl as a frozen float32 pipeline, the rest of it from demo/model."""
    demo, own = demo_folder() / "model", folder / name
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(own / "unet"))
    weights = load_file(demo / "unet" / _UNET)
    if (own / "unet" / _UNET).exists():
        weights |= load_file(own / "unet" / _UNET)
    shapes = {key: value.shape for key, value in unet.state_dict().items()}
    unet.load_state_dict({key: value.view(shapes[key]) for key, value in weights.items()})
    first = folder / "sd1" / "text_encoder" / _TEXT
    parts: dict[str, Any] = {
        "unet": unet.eval().requires_grad_(False),
        "vae": AutoencoderKL.from_pretrained(demo / "vae").float().requires_grad_(False),
        "scheduler": DDIMScheduler.from_pretrained(own / "scheduler"),
        "text_encoder": _load_text(CLIPTextModel, own / "text_encoder", first),
        "tokenizer": _load_tokenizer("<|endoftext|>"),
    }
    if name == "sd1":
        unused = {"safety_checker": None, "feature_extractor": None}
        return StableDiffusionPipeline(**parts, **unused, requires_safety_checker=False)
    towers = own / "text_encoder_2"
    second = _load_text(CLIPTextModelWithProjection, towers, towers / _TEXT)
    return StableDiffusionXLPipeline(
        **parts, text_encoder_2=second, tokenizer_2=_load_tokenizer("!")
    )


def _load_text(kind: type, folder: Path, file: Path) -> nn.Module:
    tower: nn.Module = kind(CLIPTextConfig.from_pretrained(folder))
    weights: dict[str, Tensor] = restore_token_table(load_file(file), VOCABULARY)
    if not hasattr(tower, "text_model"):
        weights = {name.removeprefix(_PREFIX): value for name, value in weights.items()}
    tower.load_state_dict(weights)
    return tower.float().eval().requires_grad_(False)


def _load_tokenizer(pad: str) -> CLIPTokenizer:
    folder = Path(tokenizer.__file__).parent / "clip_vocabulary"
    return CLIPTokenizer.from_pretrained(folder, pad_token=pad)
