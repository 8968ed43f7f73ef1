"""Loading parts of a model: everything is on the CPU already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

loads: list[Any] = []


def load_models_gpu(patchers: Sequence[Any], memory_required: float = 0) -> None:
    """Takes LoRAs out of a part that was loaded with some, as Forge does."""
    for patcher in patchers:
        loads.append(patcher)
        patcher.refresh_loras()
