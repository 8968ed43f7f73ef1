"""Giving freed memory back to the system between the stages of a run."""

from __future__ import annotations

import ctypes
import sys


def give_memory_back() -> None:
    """Tensors of a stage that is over leave holes that glibc keeps, and the next stage adds to."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
        if trim is not None:
            trim(0)
