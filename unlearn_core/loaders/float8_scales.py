"""Weights in float8 that are stored with a scale, as ComfyUI writes them: the plain weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BadFile

_SCALES = ("scale_weight", "weight_scale")
"""What a weight is multiplied by; the first is ComfyUI's older name."""
_OF_ACTIVATIONS = ("scale_input", "input_scale")
_NOTE = "comfy_quant"
_PLAIN_KEYS = {"format", "full_precision_matrix_mult"}
_MARK = "scaled_fp8"


def beside(wanted: Sequence[str], there: Iterable[str]) -> list[str]:
    """Of the names in a file those that stand beside wanted weights and say how to read them."""
    stems = {name.removesuffix(".weight") for name in wanted if name.endswith(".weight")}
    known = set(wanted)
    return [name for name in there if name not in known and name.rpartition(".")[0] in stems]


def unscaled(path: Path, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stored tensors with their scales multiplied in (float32 then) and without these.

    Raises BadFile for a float8 weight that is stored in a way that is not known.
    """
    weights = {name: value for name, value in stored.items() if name.split(".")[-1] != _MARK}
    for name in stored:
        stem, _, kind = name.rpartition(".")
        if kind in _OF_ACTIVATIONS:
            del weights[name]
        elif kind == _NOTE:
            _check_note(path, name, weights.pop(name))
        elif kind in _SCALES:
            scale = weights.pop(name)
            weights[f"{stem}.weight"] = _scaled(path, name, weights.get(f"{stem}.weight"), scale)
        elif kind not in ("weight", "bias") and _is_float8(stored.get(f"{stem}.weight")):
            raise _unknown(path, name)
    return weights


def _scaled(path: Path, name: str, weight: Tensor | None, scale: Tensor) -> Tensor:
    if weight is None or not _is_float8(weight) or not scale.is_floating_point():
        raise _unknown(path, name)
    if scale.numel() == 1:
        return weight.float() * scale.float().reshape(())
    rows = (len(weight), *[1] * (weight.dim() - 1))
    if scale.numel() != len(weight) or tuple(scale.shape) not in ((len(weight),), rows):
        raise _unknown(path, name)
    return weight.float() * scale.float().reshape(rows)


def _check_note(path: Path, name: str, note: Tensor) -> None:
    """Raise BadFile unless the JSON in these bytes describes plain float8 with a scale."""
    try:
        said = json.loads(bytes(note.flatten()[:1000].tolist()))
    except (ValueError, TypeError, RecursionError) as error:
        raise _unknown(path, name) from error
    is_plain = isinstance(said, dict) and set(said) <= _PLAIN_KEYS
    if not is_plain or not str(said.get("format")).startswith("float8_"):
        raise _unknown(path, name)


def _is_float8(weight: Tensor | None) -> bool:
    kinds = (torch.float8_e4m3fn, torch.float8_e5m2)
    return weight is not None and weight.dtype in kinds


def _unknown(path: Path, name: str) -> BadFile:
    return BadFile(
        f"{path} holds reduced weights that this pack can't restore: {name} is of a kind that is "
        "not known here. Use the model's float16 or bfloat16 file."
    )
