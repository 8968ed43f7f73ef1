"""A diffusers folder -> a pipeline, by files alone: strict about weights, never on the network.

Weights are put in place here rather than by from_pretrained: that one asks hubs, names things
differently from version to version, and leaves what a file lacks at random values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import BadFile
from ..files.input_files import is_file, is_folder, read_json
from ..models.families import Family, Seen, recognise
from ..text.tokenizer import VOCABULARY
from .model_configs import FOLDER_HINT, check_configs, check_counts, guess_prediction
from .model_files import PROJECTION, TEXT_PREFIX, fill_module, reshaped
from .pipeline_parts import assemble_pipeline, empty_parts, vae_dtype
from .weights_files import WeightsFiles, find_weights

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

TOKEN_TABLE = f"{TEXT_PREFIX}embeddings.token_embedding.weight"
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_SCHEDULER = "scheduler_config.json"
_OTHER_NOISE = ("EDM", "FlowMatch")
"""How the names of schedulers begin whose noise is not that of these families."""


class FolderPipeline(NamedTuple):
    """What a folder holds, and how it was read."""

    pipeline: DiffusionPipeline
    ground: str
    """How it is known what the UNet predicts."""
    notes: tuple[str, ...]
    """Sentences for the user."""


def load_pipeline_folder(
    folder: Path, dtype: torch.dtype, shared: Sequence[Path] = ()
) -> FolderPipeline:
    """A frozen pipeline on the CPU, without safety checker and with this pack's CLIP tokenizers.

    UNet and VAE become `dtype` (see vae_dtype), the text encoders float32. A text encoder file may
    hold the whole token table or only the rows in use (see restore_token_table). `shared` are
    folders, the nearest first, that hold what is absent here: parts, or tensors of the UNet. Raises
    BadFile for a missing or damaged file, WrongModel for another family.
    """
    folders = (folder, *shared)
    texts = _text_parts(folder)
    configs = {part: _config(folders, part) for part in ("unet", "vae", *texts)}
    scheduler_config = _config(folders, "scheduler", _SCHEDULER)
    family = check_configs(configs["unet"], [configs[part] for part in texts], str(folder))
    _refuse_other_noise(scheduler_config, folder)
    check_counts(folder, *configs.values())
    unet, vae, *text_encoders = empty_parts(*configs.values())
    unet_files = _find_all(folders, "unet", "diffusion_pytorch_model")
    vae_files = _find_all(folders, "vae", "diffusion_pytorch_model")[-1]
    weights = {name: value for one in unet_files for name, value in one.read().items()}
    fill_module(unet, reshaped(unet, weights), unet_files[-1].named, dtype)
    weights = _new_attention_names(vae_files.read())
    fill_module(vae, weights, vae_files.named, vae_dtype(family, dtype))
    files = [*unet_files, vae_files]
    for part, text_encoder in zip(texts, text_encoders, strict=True):
        files.append(_find_all(folders, part, "model")[-1])
        _fill_text_encoder(text_encoder, files[-1], configs[part])
    ground = "its scheduler_config.json says so"
    if scheduler_config.get("prediction_type") is None:
        ground, scheduler_config = _guessed(family, unet, scheduler_config)
    pipeline = assemble_pipeline(family, scheduler_config, unet, vae, *text_encoders)
    return FolderPipeline(pipeline, ground, tuple(one.note for one in files if one.note))


def _text_parts(folder: Path) -> tuple[str, ...]:
    """The folder's text encoders by model_index.json; raises WrongModel for another family."""
    if not is_file(folder / "model_index.json"):
        raise BadFile(f"{folder} is no diffusers folder: it holds no model_index.json.")
    index = read_json(folder / "model_index.json")
    kind, where = str(index.get("_class_name"))[:100], str(folder)
    if _is_listed(index, "transformer") or "StableDiffusion3" in kind:
        recognise(Seen(architecture=f"a {kind}"), where)
    if "XL" not in kind and not _is_listed(index, "text_encoder_2"):
        return ("text_encoder",)
    if "text_encoder" in index and not _is_listed(index, "text_encoder"):
        recognise(Seen(pooled=True), where)
    return ("text_encoder", "text_encoder_2")


def _is_listed(index: dict[str, Any], part: str) -> bool:
    found = index.get(part)
    return isinstance(found, list) and any(found)


def _config(folders: Sequence[Path], part: str, name: str = "config.json") -> dict[str, Any]:
    holder = next((one for one in folders if is_file(one / part / name)), folders[0])
    return read_json(holder / part / name)


def _find_all(folders: Sequence[Path], part: str, stem: str) -> list[WeightsFiles]:
    """A part's files, the farthest first; those of the nearest folder come last."""
    holders = [one for one in folders[1:] if is_folder(one / part)]
    holders = [one for one in holders if any((one / part).glob("*.safetensors"))]
    own = folders[0] / part
    if not holders or any(own.glob("*.safetensors")):
        holders = [folders[0], *holders]
    return [find_weights(one / part, stem) for one in reversed(holders)]


def _fill_text_encoder(module: nn.Module, files: WeightsFiles, config: dict[str, Any]) -> None:
    weights = restore_token_table(_prefixed(files.read()), VOCABULARY)
    weights = _first_layers(weights, int(config["num_hidden_layers"]))
    if PROJECTION not in module.state_dict():
        weights.pop(PROJECTION, None)
    fill_module(module, weights, files.named)


def _refuse_other_noise(scheduler_config: dict[str, Any], folder: Path) -> None:
    kind = str(scheduler_config.get("_class_name"))[:100]
    if kind.startswith(_OTHER_NOISE):
        recognise(Seen(architecture=f"a model with another kind of noise ({kind})"), str(folder))


def _guessed(
    family: Family, unet: nn.Module, scheduler_config: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The ground of what a UNet seems to predict, and a config that says it."""
    found, ground = guess_prediction(family, unet.state_dict(), FOLDER_HINT)
    said = {"v": "v_prediction", "epsilon": "epsilon"}[found]
    ground = f"its scheduler_config.json does not say; {ground}"
    return ground, {**scheduler_config, "prediction_type": said}


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
    """Names as transformers 4 has them, with `text_model.` in front of all but a projection."""
    return {
        name if name.startswith((TEXT_PREFIX, PROJECTION)) else TEXT_PREFIX + name: value
        for name, value in weights.items()
    }


def _first_layers(weights: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Without the layers from `count` on, which a config may leave unused."""

    def unused(name: str) -> bool:
        found = re.match(rf"{re.escape(TEXT_PREFIX)}encoder\.layers\.(\d+)\.", name)
        return found is not None and int(found[1]) >= count

    return {name: value for name, value in weights.items() if not unused(name)}
