"""A diffusers folder -> a pipeline, by files alone: strict about weights, never on the network.

Weights are put in place here rather than by from_pretrained: that one asks hubs, names things
differently from version to version, and leaves what a file lacks at random values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import BadFile, WrongModel
from ..files.input_files import is_file, read_json
from ..models.families import Seen, recognise
from ..text.tokenizer import VOCABULARY
from .model_configs import FOLDER_HINT, check_configs, check_counts, guess_prediction
from .model_files import TEXT_PREFIX, fill_module
from .weights_files import find_weights

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

TOKEN_TABLE = f"{TEXT_PREFIX}embeddings.token_embedding.weight"
_VOCABULARY_FOLDER = Path(__file__).parents[1] / "text" / "clip_vocabulary"
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class FolderPipeline(NamedTuple):
    """What a folder holds, and how it was read."""

    pipeline: StableDiffusionPipeline
    ground: str
    """How it is known what the UNet predicts."""
    notes: tuple[str, ...]
    """Sentences for the user."""


def load_pipeline_folder(folder: Path, dtype: torch.dtype) -> FolderPipeline:
    """A frozen pipeline on the CPU, without safety checker and with this pack's CLIP tokenizer.

    UNet and VAE become `dtype`, the text encoder float32. The text encoder file may hold the whole
    token table or only the rows in use (see restore_token_table). Raises BadFile for a missing or
    damaged file, WrongModel for another family.
    """
    if not is_file(folder / "model_index.json"):
        raise BadFile(f"{folder} is no diffusers folder: it holds no model_index.json.")
    kind = str(read_json(folder / "model_index.json").get("_class_name"))[:100]
    if "XL" in kind or "StableDiffusion3" in kind:
        recognise(Seen(architecture=f"a {kind}"), str(folder))
    unet_config = read_json(folder / "unet" / "config.json")
    text_config = read_json(folder / "text_encoder" / "config.json")
    check_configs(unet_config, text_config, str(folder))
    vae_config = read_json(folder / "vae" / "config.json")
    scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
    check_counts(folder, unet_config, vae_config, text_config)
    unet, vae, text_encoder = empty_parts(unet_config, vae_config, text_config)
    found = [
        find_weights(folder / part, stem)
        for part, stem in (
            ("unet", "diffusion_pytorch_model"),
            ("vae", "diffusion_pytorch_model"),
            ("text_encoder", "model"),
        )
    ]
    unet_files, vae_files, text_files = found
    fill_module(unet, unet_files.read(), unet_files.named, dtype)
    fill_module(vae, _new_attention_names(vae_files.read()), vae_files.named, dtype)
    weights = restore_token_table(_prefixed(text_files.read()), VOCABULARY)
    layers = int(text_config["num_hidden_layers"])
    fill_module(text_encoder, _first_layers(weights, layers), text_files.named)
    ground = "its scheduler_config.json says so"
    if scheduler_config.get("prediction_type") is None:
        guess, ground = guess_prediction(unet.state_dict(), FOLDER_HINT)
        ground = f"its scheduler_config.json does not say; {ground}"
        guessed = {"v": "v_prediction", "epsilon": "epsilon"}[guess]
        scheduler_config = {**scheduler_config, "prediction_type": guessed}
    pipeline = assemble_pipeline(unet, vae, text_encoder, scheduler_config)
    return FolderPipeline(pipeline, ground, tuple(one.note for one in found if one.note))


def empty_parts(
    unet_config: dict[str, Any], vae_config: dict[str, Any], text_config: dict[str, Any]
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """UNet, VAE and text encoder without memory (on the meta device), for fill_module.

    Raises WrongModel for a config that the libraries can't make it from.
    """
    diffusers, transformers = _libraries()
    with torch.device("meta"):
        with _config_of("unet/config.json"):
            unet: nn.Module = diffusers.UNet2DConditionModel.from_config(unet_config)
        with _config_of("vae/config.json"):
            vae: nn.Module = diffusers.AutoencoderKL.from_config(vae_config)
        with _config_of("text_encoder/config.json"):
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
    with _config_of("scheduler/scheduler_config.json"):
        scheduler = diffusers.DDIMScheduler.from_config(scheduler_config)
    configured: Any = unet
    stated = configured.config.sample_size
    configured.register_to_config(sample_size=64)  # older pipelines compare it with a number
    with _config_of("configs"):
        pipeline: StableDiffusionPipeline = diffusers.StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    configured.register_to_config(sample_size=stated)
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
    fits = rows is not None and row_ids is not None and rows.dim() == 2 and row_ids.dim() == 1
    if rows is None or row_ids is None or not fits or len(rows) != len(row_ids):
        raise BadFile(f"The text encoder file holds no {TOKEN_TABLE}: restore it from the release.")
    if len(row_ids) and not 0 <= int(row_ids.min()) <= int(row_ids.max()) < vocabulary_size:
        raise BadFile(f"The text encoder file names token rows outside 0..{vocabulary_size - 1}.")
    table = torch.zeros(vocabulary_size, rows.shape[1], dtype=rows.dtype)
    table[row_ids.long()] = rows
    rest[TOKEN_TABLE] = table
    return rest


@contextmanager
def _config_of(file: str) -> Iterator[None]:
    """Turn what goes wrong inside the libraries into a WrongModel."""
    try:
        yield
    # They check little, so an odd value goes wrong anywhere inside: as any of Python's own errors,
    # as packaging's InvalidVersion, or as huggingface_hub's StrictDataclassError, which old ones
    # lack.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise WrongModel(
            f"The model's {file} can't be used: {type(error).__name__}: {reason}. Restore it from "
            "where the model comes from."
        ) from error


def _libraries() -> tuple[Any, Any]:
    """diffusers and transformers, imported late; as Any, for their classes hide from mypy."""
    import diffusers
    import transformers

    return diffusers, transformers


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
