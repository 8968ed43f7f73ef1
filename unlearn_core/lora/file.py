"""A LoRA's weights, and the safetensors file that all three hosts load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..errors import BadFile
from ..files.tensor_file import file_bytes, read_names, read_tensors, write_whole
from ..models.families import FAMILIES, SD2, SDXL, Family
from .keys import (
    FIRST_OF_TWO,
    SECOND_OF_TWO,
    ModuleKey,
    entry_of_tensor,
    kohya_name,
    of_two_towers,
    unet_entry,
    unet_name,
)
from .kinds import is_of_text_encoder, kind_of
from .strength import AdapterConfig, find_config
from .weights import LoraPair, LoraWeights, _half, _single, complete

BASE_VERSION = "ss_base_model_version"


def lora_bytes(lora: LoraWeights, name: str = "unlearn") -> bytes:
    """The file of a LoRA, completed, the same bytes for the same LoRA in every process.

    kohya names, float16 (alpha float32), and the metadata that hosts look for; `name` becomes the
    alias that the WebUI shows. Raises BadFile for no pairs, numbers that are not finite in
    float16, or a layer that the family never uses (on SD2 above 22).
    """
    whole = complete(lora)
    if not whole.pairs:
        raise BadFile("This LoRA changes nothing: there is nothing to save.")
    family = lora.family or SD2
    for tower in family.towers:
        layers = {key.layer for key in whole.pairs if key.part == tower.part}
        unused = sorted(layer for layer in layers if not 0 <= layer <= tower.last_layer)
        if unused:
            raise BadFile(
                f"{family.name} uses layers 0 to {tower.last_layer} of its text encoder; this LoRA "
                f"also changes {unused}, which no host can load. Leave these layers out."
            )
    tensors: dict[str, Tensor] = {}
    for key, pair in whole.pairs.items():
        tensors[kohya_name(key, "down")] = _half(pair.down)
        tensors[kohya_name(key, "up")] = _half(pair.up)
        tensors[kohya_name(key, "alpha")] = _single(pair.alpha)
    for module, pair in sorted(whole.unet.items()):
        tensors[unet_name(module, "down")] = _half(pair.down)
        tensors[unet_name(module, "up")] = _half(pair.up)
        tensors[unet_name(module, "alpha")] = _single(pair.alpha)
    return file_bytes(tensors, {**whole.metadata, **_host_metadata(whole, family, name)})


def save_lora(lora: LoraWeights, path: Path) -> None:
    """Write a LoRA as one safetensors file, all at once; see `lora_bytes` for what it holds.

    An existing file is replaced; take `unused_path` for a new name, since hosts remember a file by
    its name. Raises BadFile as `lora_bytes` and `write_whole` do.
    """
    path = Path(path)
    write_whole(path, lora_bytes(lora, path.stem))


def load_lora(path: Path, with_unet: bool = False) -> LoraWeights:
    """Read a text encoder LoRA, float32 on the CPU; `with_unet`: one that changes the UNet too.

    Takes kohya's names and PEFT's, any float type. Where the file holds no alpha, it is that of
    peft's config in the file or beside it, else the rank, and a note says so. Raises BadFile for a
    file that is missing, damaged, a pickle, no LoRA, or one that changes more than the text
    encoder, unless it is asked for and named as the preset deep names it.
    """
    path = Path(path)
    names = read_names(path)
    of_unet = {name for name in names if with_unet and unet_entry(name)}
    _refuse_other_tensors(path, [name for name in names if name not in of_unet])
    tensors, metadata = read_tensors(path)
    unet = _unet_pairs(path, {name: tensors.pop(name) for name in sorted(of_unet)})
    family = _family_of(names, metadata)
    parts: dict[ModuleKey, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        entry = entry_of_tensor(name)
        assert entry is not None  # _refuse_other_tensors looked at every name
        key = of_two_towers(entry.key) if family is SDXL else entry.key
        if parts.setdefault(key, {}).setdefault(entry.part, tensor) is not tensor:
            raise BadFile(f"{path} holds {entry.part} of {_describe(key)} twice.")
    without = [key for key in sorted(parts) if "alpha" not in parts[key]]
    config = find_config(path, tensors, metadata) if without else None
    pairs = {key: _pair(path, key, parts[key], config) for key in sorted(parts)}
    notes: tuple[str, ...] = ()
    if without and config is None:
        notes = (
            f"{path.name} does not say its alpha, so its rank is taken for it; if it was trained "
            "with another one, it acts here at another strength than there.",
        )
    return LoraWeights(pairs, metadata, notes, family, unet)


def _unet_pairs(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, LoraPair]:
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        entry = unet_entry(name)
        assert entry is not None  # the caller looked at every name
        modules.setdefault(entry[0], {})[entry[1]] = tensor
    return {module: _unet_pair(path, module, parts) for module, parts in modules.items()}


def _unet_pair(path: Path, module: str, parts: Mapping[str, Tensor]) -> LoraPair:
    down, up, alpha = (parts.get(part) for part in ("down", "up", "alpha"))
    whole = down is not None and up is not None and down.dim() == up.dim()
    if down is None or up is None or not whole or down.dim() not in (2, 4):
        raise BadFile(f"{path} is not a whole LoRA: {module} of the UNet lacks a matrix.")
    rank, one = down.shape[0], up.shape[2:].numel() == 1
    if up.shape[1] != rank or not rank or not one or (alpha is not None and alpha.numel() != 1):
        raise BadFile(
            f"{path}: the matrices of {module} of the UNet don't fit each other: down is "
            f"{tuple(down.shape)}, up is {tuple(up.shape)}."
        )
    return LoraPair(down, up, float(rank if alpha is None else alpha))


def _family_of(names: Sequence[str], metadata: Mapping[str, str]) -> Family | None:
    """What a file says that it was made for, or shows by naming a second text encoder."""
    said = metadata.get(BASE_VERSION, "")
    for family in FAMILIES:
        if said and said == family.file_metadata[BASE_VERSION]:
            return family
    entries = (entry_of_tensor(name) for name in names)
    two = any(entry is not None and entry.key.part == SECOND_OF_TWO for entry in entries)
    return SDXL if two else None


def _pair(
    path: Path, key: ModuleKey, parts: Mapping[str, Tensor], config: AdapterConfig | None
) -> LoraPair:
    down, up, alpha = parts.get("down"), parts.get("up"), parts.get("alpha")
    if down is None or up is None:
        missing = "down" if down is None else "up"
        raise BadFile(f"{path} is not a whole LoRA: {_describe(key)} has no {missing} matrix.")
    if down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1] or not down.shape[0]:
        raise BadFile(
            f"{path}: the matrices of {_describe(key)} don't fit each other: down is "
            f"{tuple(down.shape)}, up is {tuple(up.shape)}."
        )
    if alpha is not None and alpha.numel() != 1:
        raise BadFile(f"{path}: alpha of {_describe(key)} is not one number.")
    rank = down.shape[0]
    if alpha is not None:
        return LoraPair(down, up, float(alpha))
    return LoraPair(down, up, float(rank) if config is None else config.alpha_of(key, rank))


def _refuse_other_tensors(path: Path, names: list[str]) -> None:
    others = [name for name in names if entry_of_tensor(name) is None]
    kind = kind_of(others)
    if kind is not None and all(is_of_text_encoder(name) for name in others):
        raise BadFile(
            f"{path} is {kind[0]}: it holds {kind[1]}. This pack reads plain LoRA of the attention "
            "and the MLP only: choose one that was saved so, or one that this pack has made."
        )
    if len(others) == len(names):
        seen = f"; the first of its {len(names)} tensors is {names[0]}" if names else ""
        raise BadFile(f"{path} is not a LoRA of a text encoder{seen}.")
    if others and all(is_of_text_encoder(name) for name in others):
        raise BadFile(
            f"{path} also changes other parts of the text encoder, for example {others[0]}. This "
            "pack reads LoRA of the attention and the MLP only: choose one without."
        )
    if others:
        raise BadFile(
            f"{path} changes more than the text encoder: {len(others)} of its {len(names)} tensors "
            f"are not of a text encoder LoRA, for example {others[0]}. Choose a LoRA that this "
            "pack has made, or one that was trained on the text encoder alone."
        )


def _host_metadata(lora: LoraWeights, family: Family, name: str) -> dict[str, str]:
    ranks = {pair.rank for pair in lora.pairs.values()}
    alphas = {pair.alpha for pair in lora.pairs.values()}
    return {
        **family.file_metadata,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alphas.pop():g}" if len(alphas) == 1 else "Dynamic",
        "ss_output_name": name,
    }


def _describe(key: ModuleKey) -> str:
    where = {FIRST_OF_TWO: " of the first text encoder", SECOND_OF_TWO: " of the second"}
    return f"{key.module} of layer {key.layer}{where.get(key.part, '')}"
