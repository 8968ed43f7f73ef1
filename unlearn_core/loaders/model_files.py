"""Reading what a model is stored in: JSON, safetensors, and weights put into a module."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import BadFile
from ..files.tensor_file import check_numbers, read_names, read_stored
from .float8_scales import beside, unscaled

TEXT_PREFIX = "text_model."


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
    stored = read_stored(path, [*wanted, *beside(wanted, there)])
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
