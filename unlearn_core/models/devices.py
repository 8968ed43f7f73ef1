"""Which device to compute on, and in which dtype it is both fast and precise enough."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch
from torch import nn


def best_device() -> torch.device:
    """CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def default_compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float16 on CUDA, else float32.

    bfloat16 goes before float16 because gradients at the text underflow in float16. On a CPU
    without native bfloat16 autocast is not merely useless: it is 11 times slower than float32.
    """
    if device.type == "cuda":
        # From compute capability 8 on; is_bf16_supported() also counts emulation.
        native = torch.cuda.get_device_capability(device)[0] >= 8
        return torch.bfloat16 if native or torch.version.hip else torch.float16
    if device.type == "cpu" and cpu_multiplies_bfloat16():
        return torch.bfloat16
    return torch.float32


def text_products_dtype(device: torch.device) -> torch.dtype:
    """What the frozen text encoder multiplies in while a LoRA is trained.

    bfloat16 where it is fast, never float16: the encoder's largest activations may not fit it.
    """
    fast = default_compute_dtype(device)
    return fast if fast == torch.bfloat16 else torch.float32


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has AMX or AVX-512 instructions for bfloat16 (False if torch can't say)."""
    cpu: Any = torch.cpu
    return any(
        bool(getattr(cpu, probe)())
        for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        if hasattr(cpu, probe)
    )


def free_memory(device: torch.device, unet: nn.Module) -> int | None:
    """Bytes that a run may still take on a GPU once `unet` is there; None elsewhere: not known."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    elsewhere = sum(p.numel() * p.element_size() for p in unet.parameters() if not p.is_cuda)
    return max(0, free + cached - elsewhere)


def give_memory_back() -> None:
    """Tensors of a stage that is over leave holes that glibc keeps, and the next stage adds to."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
        if trim is not None:
            trim(0)
