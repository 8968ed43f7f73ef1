"""A diffusers folder -> a pipeline, by files alone: strict about weights, never on the network.

Weights are put in place here rather than by from_pretrained: that one asks hubs, names things
differently from version to version, and leaves what a file lacks at random values.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import BadFile, WrongModel
from .model_files import TEXT_PREFIX, fill_module, read_json, read_tensors

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

TOKEN_TABLE = f"{TEXT_PREFIX}embeddings.token_embedding.weight"
OPENCLIP_H_LAYERS = 24

_VOCABULARY_FOLDER = Path(__file__).parent / "clip_vocabulary"
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_KINDS = {9: "an inpainting model", 5: "a depth model", 7: "an upscaler"}


def load_pipeline_folder(folder: Path, dtype: torch.dtype) -> StableDiffusionPipeline:
    """A frozen pipeline on the CPU, without safety checker and with this pack's CLIP tokenizer.

    UNet and VAE become `dtype`, the text encoder float32. The text encoder file may hold the whole
    token table or only the rows in use (see restore_token_table). Raises BadFile for a missing or
    damaged file, WrongModel for another family.
    """
    if not (folder / "model_index.json").is_file():
        raise BadFile(f"{folder} is no diffusers folder: it holds no model_index.json.")
    kind = str(read_json(folder / "model_index.json").get("_class_name"))
    if "XL" in kind or "StableDiffusion3" in kind:
        raise WrongModel(f"{folder}: this is a {kind}; this pack needs Stable Diffusion 2.")
    unet_config = read_json(folder / "unet" / "config.json")
    text_config = read_json(folder / "text_encoder" / "config.json")
    check_configs(unet_config, text_config, str(folder))
    vae_config = read_json(folder / "vae" / "config.json")
    scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
    unet, vae, text_encoder = empty_parts(unet_config, vae_config, text_config)
    file = _weights_file(folder / "unet", "diffusion_pytorch_model")
    fill_module(unet, read_tensors(file), file, dtype)
    file = _weights_file(folder / "vae", "diffusion_pytorch_model")
    fill_module(vae, _new_attention_names(read_tensors(file)), file, dtype)
    file = _weights_file(folder / "text_encoder", "model")
    weights = _prefixed(read_tensors(file))
    weights = restore_token_table(weights, int(text_config["vocab_size"]))
    fill_module(text_encoder, _first_layers(weights, int(text_config["num_hidden_layers"])), file)
    return assemble_pipeline(unet, vae, text_encoder, scheduler_config)


def check_configs(unet: Any, text: Any, where: str) -> None:
    """Raise WrongModel unless these are the configs of a Stable Diffusion 2 of any size.

    Each is a dict or a config that has `get`; `where` names the model in the message.
    """
    width, wanted = text.get("hidden_size"), unet.get("cross_attention_dim")
    if width == 768 and wanted == 768:
        raise WrongModel(
            f"{where}: this is SD 1.x: its text width is 768, this pack needs Stable Diffusion 2 "
            "(1024)."
        )
    channels = unet.get("in_channels")
    if channels != 4:
        raise WrongModel(
            f"{where}: this is {_KINDS.get(channels, 'another kind of model')}: its UNet takes "
            f"{channels} channels, this pack needs 4. Use the plain text-to-image model."
        )
    if unet.get("addition_embed_type") or unet.get("class_embed_type"):
        raise WrongModel(f"{where}: its UNet takes extra conditions, as SDXL and unCLIP do.")
    if width != wanted:
        raise WrongModel(
            f"{where}: its text encoder is {width} wide and its UNet expects {wanted}: these parts "
            "are of two models."
        )
    if text.get("hidden_act", "quick_gelu") != "gelu":
        raise WrongModel(
            f"{where}: its text encoder is no OpenCLIP one, as Stable Diffusion 2 has it: its "
            f"activation is {text.get('hidden_act', 'quick_gelu')}, not gelu."
        )
    layers = text.get("num_hidden_layers")
    if width == 1024 and layers == OPENCLIP_H_LAYERS:
        raise WrongModel(
            f"{where}: its text encoder has {layers} layers and would use the last one, but Stable "
            "Diffusion 2 uses the one before: set num_hidden_layers to 23 in "
            "text_encoder/config.json."
        )


def empty_parts(
    unet_config: dict[str, Any], vae_config: dict[str, Any], text_config: dict[str, Any]
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """UNet, VAE and text encoder without memory (on the meta device), for fill_module."""
    diffusers, transformers = _libraries()
    with torch.device("meta"):
        unet: nn.Module = diffusers.UNet2DConditionModel.from_config(unet_config)
        vae: nn.Module = diffusers.AutoencoderKL.from_config(vae_config)
        text_encoder: nn.Module = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(**text_config)
        )
    return unet, vae, text_encoder


def assemble_pipeline(
    unet: nn.Module, vae: nn.Module, text_encoder: nn.Module, scheduler_config: dict[str, Any]
) -> StableDiffusionPipeline:
    """The parts as one pipeline with a DDIM scheduler and this pack's CLIP tokenizer."""
    diffusers, transformers = _libraries()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(
        str(_VOCABULARY_FOLDER), local_files_only=True
    )
    pipeline: StableDiffusionPipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=diffusers.DDIMScheduler.from_config(scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline


def restore_token_table(weights: dict[str, Tensor], vocabulary_size: int) -> dict[str, Tensor]:
    """Put the compact rows back into a (vocabulary_size, width) table, zero elsewhere.

    `NAME.rows` (n, width) float and `NAME.row_ids` (n,) int become `NAME`; weights that already
    hold the full table pass through unchanged.
    """
    if TOKEN_TABLE in weights:
        return weights
    rest = dict(weights)
    rows = rest.pop(f"{TOKEN_TABLE}.rows", None)
    row_ids = rest.pop(f"{TOKEN_TABLE}.row_ids", None)
    if rows is None or row_ids is None or len(rows) != len(row_ids):
        raise BadFile(f"The text encoder file holds no {TOKEN_TABLE}: restore it from the release.")
    if len(row_ids) and not 0 <= int(row_ids.min()) <= int(row_ids.max()) < vocabulary_size:
        raise BadFile(f"The text encoder file names token rows outside 0..{vocabulary_size - 1}.")
    table = torch.zeros(vocabulary_size, rows.shape[1], dtype=rows.dtype)
    table[row_ids.long()] = rows
    rest[TOKEN_TABLE] = table
    return rest


def _libraries() -> tuple[Any, Any]:
    """diffusers and transformers, imported late; as Any, for their classes hide from mypy."""
    import diffusers
    import transformers

    return diffusers, transformers


def _weights_file(folder: Path, stem: str) -> Path:
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).is_file():
            return folder / name
    if any(folder.glob("*.bin")):
        raise BadFile(
            f"{folder} holds pickles (.bin), which can run programs when they are opened, so they "
            "are refused: convert them to .safetensors first."
        )
    raise BadFile(f"{folder / stem}.safetensors is missing.")


def _new_attention_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers before 0.18 saved the VAE's attention as query, key, value and proj_attn."""

    def renamed(name: str) -> str:
        return re.sub(
            r"(attentions\.\d+)\.(query|key|value|proj_attn)\.",
            lambda found: f"{found[1]}.{_OLD_ATTENTION[found[2]]}.",
            name,
        )

    return {renamed(name): value for name, value in weights.items()}


def _prefixed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as transformers 4 has them, with `text_model.` in front."""
    return {
        name if name.startswith(TEXT_PREFIX) else TEXT_PREFIX + name: value
        for name, value in weights.items()
    }


def _first_layers(weights: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Without the layers from `count` on, which a config may leave unused."""

    def unused(name: str) -> bool:
        found = re.match(rf"{re.escape(TEXT_PREFIX)}encoder\.layers\.(\d+)\.", name)
        return found is not None and int(found[1]) >= count

    return {name: value for name, value in weights.items() if not unused(name)}
