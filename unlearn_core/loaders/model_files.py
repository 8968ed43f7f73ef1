"""Reading what a model is stored in: JSON, safetensors, and weights put into a module."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import BadFile
from ..files.tensor_file import check_numbers, read_names, read_stored

TEXT_PREFIX = "text_model."
PROJECTION = "text_projection.weight"
"""What makes a pooled vector of the state at the end of a prompt."""
_SCALES = ("scale_weight", "weight_scale")
"""What a weight is multiplied by; the first is ComfyUI's older name."""
_OF_ACTIVATIONS = ("scale_input", "input_scale")
_NOTE = "comfy_quant"
_PLAIN_KEYS = {"format", "full_precision_matrix_mult"}
_MARK = "scaled_fp8"


def read_weights(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Weights of a safetensors file (None: all), on the CPU, of the dtype as stored.

    What is stored in float8 with scales comes as float32. Raises BadFile for what is no whole
    safetensors file, lacks a name, or holds what are no finite float numbers.
    """
    there = read_names(path)
    wanted = there if names is None else list(names)
    absent = sorted(set(wanted).difference(there))
    if absent:
        raise BadFile(f"{path} lacks {len(absent)} weights, the first is {absent[0][:200]}.")
    stored = read_stored(path, [*wanted, *scales_beside(wanted, there)])
    weights = unscaled(path, stored)
    check_numbers(path, weights)
    return weights


def fill_module(
    module: nn.Module, weights: dict[str, Tensor], source: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Give `module` copies of `weights` as `dtype`, freeze it and leave training mode.

    The module may stand on the meta device, which costs no memory and draws no random numbers;
    `position_ids`, the one buffer that files may leave out, is counted anew. Names may lack the
    `text_model.` prefix that transformers 5 dropped. Raises BadFile if a weight is missing, unknown
    or of another shape.
    """
    own = module.state_dict()
    if not any(name.startswith(TEXT_PREFIX) for name in own):  # transformers 5, or no text
        weights = {name.removeprefix(TEXT_PREFIX): value for name, value in weights.items()}
    weights = {name: value for name, value in weights.items() if "position_ids" not in name}
    missing = [name for name in own if name not in weights and "position_ids" not in name]
    unknown = [name for name in weights if name not in own]
    wrong = [name for name in weights if name in own and weights[name].shape != own[name].shape]
    for kind, names in (("lacks", missing), ("has unknown", unknown), ("has misshapen", wrong)):
        if names:
            raise BadFile(f"{source} {kind} weights: {len(names)}, the first is {names[0]}.")
    module.load_state_dict(
        {
            name: value.to(dtype if value.is_floating_point() else value.dtype, copy=True)
            for name, value in weights.items()
        },
        strict=False,
        assign=True,
    )
    for part in module.modules():
        ids = dict(part.named_buffers(recurse=False)).get("position_ids")
        if ids is not None and ids.is_meta:
            counted = torch.arange(ids.shape[-1]).expand(1, -1)
            part.register_buffer("position_ids", counted, persistent=False)
    module.requires_grad_(False)
    module.train(False)


def reshaped(module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With what is a 1 x 1 convolution in one of the two and a Linear in the other made to fit."""
    own = {name: value.shape for name, value in module.state_dict().items()}

    def fits(name: str, value: Tensor) -> bool:
        shape = own.get(name, value.shape)
        return value.dim() == len(shape) or value.numel() != shape.numel()

    return {
        name: value if fits(name, value) else value.reshape(own[name])
        for name, value in weights.items()
    }


def scales_beside(wanted: Sequence[str], there: Iterable[str]) -> list[str]:
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
