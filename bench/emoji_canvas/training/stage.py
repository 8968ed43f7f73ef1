"""What every training stage shares: a time budget, a checkpoint, an average of weights, a log."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SAVE_EVERY = 120.0
"""Seconds between checkpoints."""


class Stage:
    """Time spent on a stage, over as many runs as it takes; FOLDER/NAME.pt holds its state."""

    def __init__(self, name: str, folder: Path, minutes: float) -> None:
        """A stage of `minutes` of training; earlier runs in the same folder count."""
        self.file = folder / f"{name}.pt"
        self.log_file = folder / f"{name}.jsonl"
        self.seconds = 60 * minutes
        self.spent = 0.0
        self._last = self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state of the last checkpoint, or None."""
        if not self.file.exists():
            return None
        state = torch.load(self.file, weights_only=True)
        self.spent = state["spent"]
        return state

    @property
    def share(self) -> float:
        """Share of the budget that is spent, 0 to 1; reading it counts the time since."""
        now = time.monotonic()
        self.spent += now - self._last
        self._last = now
        return min(1.0, self.spent / self.seconds)

    def save(self, **state: Any) -> None:
        """Write a checkpoint, whole or not at all."""
        temporary = self.file.with_suffix(".tmp")
        torch.save({**state, "spent": self.spent}, temporary)
        temporary.replace(self.file)
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._saved > SAVE_EVERY

    def log(self, **entry: float) -> None:
        """Append a line to the stage's curve and show it."""
        line = json.dumps({"seconds": round(self.spent), **entry})
        print(self.file.stem, line, flush=True)
        with self.log_file.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


class Average:
    """Exponential moving average of a module's weights, with a warm-up."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start at the module's weights; `decay` per update, at most."""
        self.weights = {name: p.detach().clone() for name, p in module.named_parameters()}
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's weights."""
        weight = 1 - min(self.decay, step / (step + 20))
        names, live = zip(*module.named_parameters(), strict=True)
        torch._foreach_lerp_([self.weights[name] for name in names], list(live), weight)


def as_batch(pixels: Tensor) -> Tensor:
    """(B, h, w, 3) uint8 -> (B, 3, h, w) float32 in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
