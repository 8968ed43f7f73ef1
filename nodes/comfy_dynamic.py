"""The lazy weights of newer hosts (dynamic VRAM): done without, as they have no gradient."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as management
import comfy.model_patcher as patcher
import torch

from ..unlearn_core.errors import NotEnoughMemory, WrongModel

_FLAG = "Start ComfyUI with --disable-dynamic-vram, then run this again."


def static(model: Any) -> Any:
    """MODEL with weights that are there; a lazy one is read from its file a second time.

    Raises WrongModel where ComfyUI does not know its file, and NotEnoughMemory where the second
    UNet does not fit into RAM.
    """
    if not hasattr(model, "get_non_dynamic_delegate"):
        return model
    if getattr(model, "non_dynamic_delegate_model", True) is None:
        _check_room(model)
    try:
        return model.get_non_dynamic_delegate()
    except RuntimeError as error:
        if getattr(model, "cached_patcher_init", None) is not None:
            raise
        raise WrongModel(
            "MODEL comes from a custom loader, and with dynamic VRAM ComfyUI can't give its "
            f"weights for training. {_FLAG}"
        ) from error


def _check_room(model: Any) -> None:
    needed, free = model.model_size(), management.get_free_memory(torch.device("cpu"))
    if needed > free:
        raise NotEnoughMemory(
            "With dynamic VRAM ComfyUI reads a second UNet into RAM for training: it takes "
            f"{needed / 2**30:.1f} GB, and {free / 2**30:.1f} GB are free. {_FLAG}"
        )


@contextmanager
def plain_weights() -> Iterator[None]:
    """Inside, ComfyUI builds models whose weights are there from the start."""
    memory: Any = sys.modules.get("comfy.memory_management")
    if not getattr(memory, "aimdo_enabled", False):
        yield
        return
    chosen = patcher.CoreModelPatcher
    memory.aimdo_enabled, patcher.CoreModelPatcher = False, patcher.ModelPatcher
    try:
        yield
    finally:
        memory.aimdo_enabled, patcher.CoreModelPatcher = True, chosen
