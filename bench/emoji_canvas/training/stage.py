"""What every training stage shares: a time budget, a checkpoint, an average of weights, a log."""

from __future__ import annotations

import json
import math
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


def warm_cosine(step: int, warm_up: int, share: float) -> float:
    """The learning rate over its full one: `warm_up` steps up, a cosine of `share` down to 2 %."""
    return min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * share)))


class Checkpoint:
    """A module in training, the average of its weights and its optimizer, as a stage keeps them."""

    def __init__(
        self, stage: Stage, module: nn.Module, optimizer: torch.optim.Optimizer, decay: float
    ) -> None:
        """Go on from the stage's last checkpoint, if there is one; `decay` is the average's."""
        self._stage, self._module, self._optimizer = stage, module, optimizer
        self._average = Average(module, decay)
        self.step = 0
        if state := stage.load():
            module.load_state_dict(state["weights"])
            self._average.weights = state["average"]
            optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def stepped(self) -> int:
        """Count a step of the optimizer; how many there were."""
        self.step += 1
        self._average.update(self._module, self.step)
        return self.step

    def save(self) -> None:
        """Into the stage's file."""
        self._stage.save(
            weights=self._module.state_dict(),
            average=self._average.weights,
            optimizer=self._optimizer.state_dict(),
            step=self.step,
        )

    def finish(self) -> None:
        """Save, and leave the module with the average's weights, frozen."""
        self.save()
        self._module.load_state_dict(self._average.weights, strict=False)
        self._module.eval().requires_grad_(False)


def as_batch(pixels: Tensor) -> Tensor:
    """(B, h, w, 3) uint8 -> (B, 3, h, w) float32 in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
