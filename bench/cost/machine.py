"""What a device does here and now: the rate of its products and copies, the memory that is held.

On a CUDA device clocks are read when it has ended what it was given. float64 is always the CPU's
rate, for the only products in float64, those of the least squares, are computed there. Products in
float32 are measured as torch does them unless told otherwise, without TF32; its convolutions may
use that, and be faster than this rate.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.cost.products import PRODUCT_DTYPES
from bench.protocol.cost import CPU, wait_for

MATMUL = 2048
"""Edge of the matrices whose product gives a CPU's rate."""
CUDA_MATMUL = 8192
"""The same on a CUDA device, which a smaller one does not fill."""
COPIED = 256 * 2**20
"""Bytes whose copy gives the machine's bandwidth."""
ROUNDS = 5
ENOUGH = 3.0
"""Seconds after which no further round is begun."""


@dataclass(frozen=True)
class Rates:
    """What is done in one kind of second."""

    products: dict[str, float]
    """Dtype -> FLOP of matrix products."""
    copied: float
    """Bytes."""

    def seconds(self, flops: dict[str, int], copied: int) -> float:
        """What so many products and copied bytes take."""
        products = sum(count / self.products[dtype] for dtype, count in flops.items())
        return products + copied / self.copied


@dataclass(frozen=True)
class Machine:
    """What a device does here and now."""

    wall: Rates
    """In a second of the clock."""
    processor: Rates
    """In a second of the processor, all threads added up; while a CUDA device computes, the
    processor waits, which counts too."""
    threads: int


def measure_machine(device: torch.device = CPU) -> Machine:
    """The best of ROUNDS products and copies; what it took of a CUDA device is given back."""
    copy = _copy_seconds(device)
    flops, products = {}, {}
    for dtype in PRODUCT_DTYPES:
        place = CPU if dtype == torch.float64 else device
        edge = CUDA_MATMUL if place.type == "cuda" else MATMUL
        one, other = (torch.randn(edge, edge, device=place).to(dtype) for _ in range(2))
        name = str(dtype).removeprefix("torch.")
        flops[name] = 2 * edge**3
        products[name] = _seconds(lambda one=one, other=other: torch.mm(one, other), place)
    del one, other
    if device.type == "cuda":
        torch.cuda.empty_cache()
    rates = [
        Rates({name: flops[name] / s[clock] for name, s in products.items()}, COPIED / copy[clock])
        for clock in range(2)
    ]
    return Machine(rates[0], rates[1], torch.get_num_threads())


def device_name(device: torch.device) -> str:
    """What its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpus = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpus.read_text("utf-8")) if cpus.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def _copy_seconds(device: torch.device) -> tuple[float, float]:
    source, target = (torch.empty(COPIED, dtype=torch.uint8, device=device) for _ in range(2))
    return _seconds(lambda: target.copy_(source), device)


def _seconds(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Of the clock and of the processor, each the least of ROUNDS."""
    found: list[tuple[float, float]] = []
    while len(found) < ROUNDS and sum(wall for wall, _ in found) < ENOUGH:
        wait_for(device)
        started = time.perf_counter(), time.process_time()
        call()
        wait_for(device)
        found.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    wall, processor = zip(*found, strict=True)
    return min(wall), min(processor)
