"""What a call costs: wall time, and the most memory that it held beyond what was held before.

On the CPU the resident set of this process is sampled every 5 ms by a thread, after free memory
went back to the system; a peak shorter than that may be missed, and what a library keeps for later
calls counts for the first one. On a CUDA device torch's own count of allocated bytes is exact.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import psutil
import torch

from unlearn_core.free_memory import give_memory_back

SAMPLE_SECONDS = 0.005
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Cost:
    """The price of one call."""

    seconds: float
    peak_bytes: int


def measured(
    call: Callable[[], _Result], device: torch.device | None = None
) -> tuple[_Result, Cost]:
    """What the call gives back, and its cost; `device` is where its model lies."""
    on_cuda = device is not None and device.type == "cuda"
    gc.collect()
    give_memory_back()
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        started = time.monotonic()
        result = call()
        torch.cuda.synchronize(device)
        seconds = time.monotonic() - started
        return result, Cost(seconds, torch.cuda.max_memory_allocated(device) - before)
    sampler = PeakSampler()
    before = sampler.resident()
    sampler.start()
    started = time.monotonic()
    try:
        result = call()
    finally:
        seconds = time.monotonic() - started
        sampler.stop()
    return result, Cost(seconds, max(0, sampler.peak - before))


class PeakSampler(threading.Thread):
    """Looks at this process's resident set until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process()
        self._done = threading.Event()
        self.peak = 0

    def resident(self) -> int:
        return int(self._process.memory_info().rss)

    def run(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self.resident())

    def stop(self) -> None:
        self._done.set()
        self.join()
        self.peak = max(self.peak, self.resident())
