"""Where and in what precision the host computes: on the CPU, in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

device = torch.device("cpu")
dtype = dtype_unet = dtype_vae = torch.float32
fp8 = False


def autocast() -> AbstractContextManager[Any]:
    return nullcontext()


def without_autocast() -> AbstractContextManager[Any]:
    return nullcontext()


def torch_gc() -> None:
    pass
