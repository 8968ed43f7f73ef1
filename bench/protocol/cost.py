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

from unlearn_core.models.devices import give_memory_back

CPU = torch.device("cpu")
SAMPLE_SECONDS = 0.005
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Cost:
    """The price of one call."""

    seconds: float
    peak_bytes: int


def measured(call: Callable[[], _Result], device: torch.device = CPU) -> tuple[_Result, Cost]:
    """What the call gives back, and its cost; `device` is where its model lies."""
    gauge = MemoryGauge(device)
    started = time.monotonic()
    try:
        result = call()
        wait_for(device)
        return result, Cost(time.monotonic() - started, gauge.look())
    finally:
        gauge.close()


class MemoryGauge:
    """The most memory beyond what was held at first, from one look to the next.

    On a CUDA device what torch allocated, exactly; else this process's resident set, sampled.
    """

    def __init__(self, device: torch.device) -> None:
        """What is held now does not count."""
        gc.collect()
        give_memory_back()
        self._device, self._sampler = device, _PeakSampler()
        if device.type == "cuda":
            torch.cuda.init()
            torch.cuda.empty_cache()
            self._held = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self._held = self._sampler.resident()
            self._sampler.start()

    def look(self) -> int:
        """Bytes at most since the last look."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._sampler.stop()
            peak = self._sampler.peak
            self._sampler = _PeakSampler()
            self._sampler.start()
        return max(0, peak - self._held)

    def close(self) -> None:
        """Look no more."""
        if self._sampler.is_alive():
            self._sampler.stop()


def wait_for(device: torch.device) -> None:
    """Until a CUDA device has done what it was given; other devices are never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _PeakSampler(threading.Thread):
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
