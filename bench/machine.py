"""What the processor does here and now: the rate of its matrix products and of its copies."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.products import PRODUCT_DTYPES

MATMUL = 2048
"""Edge of the matrices whose product gives the machine's rate."""
COPIED = 256 * 2**20
"""Bytes whose copy gives the machine's bandwidth."""
ROUNDS = 5


@dataclass(frozen=True)
class Rates:
    """What the processor does in one kind of second."""

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
    """What the processor does here and now."""

    wall: Rates
    """In a second of the clock."""
    processor: Rates
    """In a second of the processor, all threads added up."""
    threads: int


def measure_machine() -> Machine:
    """The best of ROUNDS products and copies."""
    source, target = (torch.empty(COPIED, dtype=torch.uint8) for _ in range(2))
    copy = _seconds(lambda: target.copy_(source))
    products = {}
    for dtype in PRODUCT_DTYPES:
        one, other = (torch.randn(MATMUL, MATMUL).to(dtype) for _ in range(2))
        products[str(dtype).removeprefix("torch.")] = _seconds(
            lambda one=one, other=other: torch.mm(one, other)
        )
    rates = [
        Rates(
            {name: 2 * MATMUL**3 / s[clock] for name, s in products.items()}, COPIED / copy[clock]
        )
        for clock in range(2)
    ]
    return Machine(rates[0], rates[1], torch.get_num_threads())


def _seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Of the clock and of the processor, each the least of ROUNDS."""
    found = []
    for _ in range(ROUNDS):
        started = time.perf_counter(), time.process_time()
        call()
        found.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    wall, processor = zip(*found, strict=True)
    return min(wall), min(processor)
