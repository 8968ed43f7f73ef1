"""Counts the matrix products that run in a `with` block, by the dtype that they multiply in.

Convolutions and fused attention are products too. As torch's FlopCounterMode, by whose formulas it
counts; that one does not tell dtypes apart, and leaves attention on a CPU out. Under autocast the
dtype is the one that a product's input was cast to.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

PRODUCT_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

_SUMS = ("addmm", "baddbmm")
"""Products that are added to their first argument."""


class ProductCounter(TorchDispatchMode):
    """Adds up floating-point operations in `flops`, dtype -> count."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and count it."""
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name == "aten::_scaled_dot_product_flash_attention_for_cpu":
            self._count(args[0], sdpa_flop_count(*(part.shape for part in args[:3])))
        elif name == "aten::_scaled_dot_product_flash_attention_for_cpu_backward":
            self._count(args[1], sdpa_backward_flop_count(*(part.shape for part in args[:4])))
        elif (formula := _formula(name)) is not None:
            factor = args[1 if name.removeprefix("aten::").startswith(_SUMS) else 0]
            self._count(factor, formula(*args, **(kwargs or {}), out_val=out))
        return out

    def _count(self, factor: Tensor, flops: int) -> None:
        self.flops[str(factor.dtype).removeprefix("torch.")] += flops


def _formula(name: str) -> Any:
    """torch's formula for an operation; an operation in place has that of the other."""
    packet = getattr(torch.ops.aten, name.removeprefix("aten::").removesuffix("_"), None)
    return flop_registry.get(packet)
