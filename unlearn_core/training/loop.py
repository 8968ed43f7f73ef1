"""The one optimisation loop: Adam on the sum of the terms, at a LoRA strength drawn each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import TrainingFailed
from ..lora.encoder_lora import EncoderLora
from ..lora.keys import ModuleKey
from ..progress import RunMonitor, StepReports, stop_if_asked
from ..settings import UnlearnSettings
from .null_space import project_away
from .terms import Term

WARM_UP_STEPS = 10
STRENGTHS = 0.6, 1.3
"""Lowest and highest LoRA strength drawn for a step: users choose it when they draw."""


@dataclass
class Training:
    """One run of the loop; `run` returns the loss of every step."""

    loras: Sequence[EncoderLora]
    """One for each tower that is trained now."""
    terms: Sequence[Term]
    settings: UnlearnSettings
    generator: torch.Generator
    bases: Sequence[dict[ModuleKey, Tensor]]
    """For each LoRA: what each projection's `down` is kept orthogonal to, see `null_space`."""
    preview: Callable[[], Tensor]
    """What is drawn now, asked for a few times in a run."""
    before_step: Sequence[Callable[[int], None]] = ()
    """Called at full strength, before the step draws anything."""

    def run(self, monitor: RunMonitor, reports: StepReports, done: int = 0) -> list[float]:
        """Train; raises Cancelled, or TrainingFailed when the loss is not a number.

        `done` steps of the reported ones were another tower's.
        """
        settings = self.settings
        parameters = [parameter for lora in self.loras for parameter in lora.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
        losses: list[float] = []
        reports.go_on()
        for step in range(settings.steps):
            stop_if_asked(monitor)
            for prepare in self.before_step:
                prepare(step)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, settings.steps)
            self._set_strength(self._draw_strength())
            optimizer.zero_grad()
            loss = self.add_gradients(step)
            if not math.isfinite(loss):
                raise TrainingFailed(
                    f"The loss is {loss} at step {step + 1}: the learning rate "
                    f"{settings.learning_rate:g} is too high for this model. Lower it."
                )
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            for lora, bases in zip(self.loras, self.bases, strict=True):
                project_away(lora, bases)
            self._set_strength(1.0)
            losses.append(loss)
            reports.done(done + step + 1, loss, self.preview)
        return losses

    def add_gradients(self, step: int) -> float:
        """The loss. Gradients are added up micro-batch by micro-batch: one is held at a time."""
        total = 0.0
        for term in self.terms:
            for part in term(step):
                if part.requires_grad:
                    part.backward()
                total += float(part.detach())
        return total

    def _set_strength(self, strength: float) -> None:
        for lora in self.loras:
            lora.set_strength(strength)

    def _draw_strength(self) -> float:
        low, high = (1.0, 1.0) if self.settings.objective == "ascent" else STRENGTHS
        return low + (high - low) * float(torch.rand((), generator=self.generator))


def _schedule(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / max(1, steps))))
