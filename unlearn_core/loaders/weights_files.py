"""Which safetensors files of a folder hold a part's weights: one file, its parts, or a variant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import BadFile
from ..files.input_files import is_file, is_folder, read_json
from .model_files import read_weights

_FIRST_VARIANTS = ("fp16", "bf16", "fp32")
_LAST_VARIANT = "non_ema"
"""Not averaged: other weights, not just other numbers of bits."""


@dataclass(frozen=True)
class WeightsFiles:
    """Where the weights of one part of a model are."""

    named: Path
    """The one file, or the index of several."""
    parts: dict[Path, tuple[str, ...] | None]
    """Each file and which tensors of it are meant; None: all."""
    note: str = ""
    """A sentence for the user if it is not the plain file that is read."""

    def read(self) -> dict[str, Tensor]:
        """All weights, as `read_weights` gives them; raises BadFile."""
        weights: dict[str, Tensor] = {}
        for file, names in self.parts.items():
            weights.update(read_weights(file, names))
        return weights


def find_weights(folder: Path, stem: str) -> WeightsFiles:
    """STEM.safetensors, or the parts that STEM.safetensors.index.json lists, or a variant of these.

    Raises BadFile if there is none, or if a part is missing.
    """
    plain = f"{stem}.safetensors"
    if is_file(folder / plain):
        return WeightsFiles(folder / plain, {folder / plain: None})
    if is_file(folder / f"{plain}.index.json"):
        return _indexed(folder / f"{plain}.index.json", "")
    names = _listed(folder)
    single = re.compile(rf"{re.escape(stem)}\.(?P<variant>[\w-]+)\.safetensors")
    index = re.compile(
        rf"{re.escape(stem)}(?:\.(?P<variant>[\w-]+)\.safetensors\.index"
        r"|\.safetensors\.index\.(?P<other>[\w-]+))\.json"
    )
    variants: dict[str, str] = {}
    for pattern in (index, single):
        for name in names:
            found = pattern.fullmatch(name)
            if found and not re.search(r"-\d+-of-\d+$", found["variant"] or ""):
                variants[found["variant"] or found.groupdict()["other"]] = name
    if not variants:
        raise _nothing(folder, stem, names)
    name = variants[min(variants, key=_preference)]
    note = f"{folder.name}: {name} is read, for there is no {plain}."
    if name.endswith(".json"):
        return _indexed(folder / name, note)
    return WeightsFiles(folder / name, {folder / name: None}, note)


def _indexed(index: Path, note: str) -> WeightsFiles:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise BadFile(f"{index} lists no weights: restore it from where the model comes from.")
    files: dict[str, list[str]] = {}
    for name, file in listed.items():
        if not isinstance(file, str) or not re.fullmatch(r"[\w-][\w.-]{0,200}\.safetensors", file):
            raise BadFile(
                f"{index} names {str(file)[:100]!r} as a part; only a .safetensors file that lies "
                "beside it can be one."
            )
        files.setdefault(file, []).append(name)
    missing = [file for file in sorted(files) if not is_file(index.parent / file)]
    if missing:
        raise BadFile(
            f"{index.parent} lacks {missing[0]}, {len(missing)} of {len(files)} parts that "
            f"{index.name} lists: download the model again, all of it."
        )
    parts = {index.parent / file: tuple(names) for file, names in sorted(files.items())}
    return WeightsFiles(index, {**parts}, note)


def _listed(folder: Path) -> list[str]:
    if not is_folder(folder):
        raise BadFile(f"There is no folder {folder}.")
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise BadFile(f"{folder} can't be read: {error}.") from error


def _preference(variant: str) -> tuple[int, str]:
    if variant in _FIRST_VARIANTS:
        return _FIRST_VARIANTS.index(variant), variant
    return len(_FIRST_VARIANTS) + (variant == _LAST_VARIANT), variant


def _nothing(folder: Path, stem: str, names: list[str]) -> BadFile:
    if any(name.endswith(".bin") for name in names):
        return BadFile(
            f"{folder} holds pickles (.bin), which can run programs when they are opened, so they "
            "are refused: convert them to .safetensors first."
        )
    return BadFile(f"{folder / stem}.safetensors is missing, and so is every variant of it.")
