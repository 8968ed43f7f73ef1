"""The one optimisation loop: Adam on the sum of the terms, at a LoRA strength drawn each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import TrainingFailed
from ..lora.encoder_lora import EncoderLora
from ..lora.keys import ModuleKey
from ..lora.null_space import project_away
from ..progress import RunMonitor, StepReports, stop_if_asked
from ..settings import UnlearnSettings
from .stopping import COOL_DOWN, EVERY, StopWhenDone
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
    stopping: StopWhenDone | None = None
    """None: all steps are taken."""

    def run(self, monitor: RunMonitor, reports: StepReports) -> list[float]:
        """Train; raises Cancelled, or TrainingFailed when the loss is not a number."""
        settings = self.settings
        parameters = [parameter for lora in self.loras for parameter in lora.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
        losses: list[float] = []
        steps = settings.steps
        reports.go_on()
        while len(losses) < steps:
            step = len(losses)
            stop_if_asked(monitor)
            for prepare in self.before_step:
                prepare(step)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * self._rate(step, steps)
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
            fewer = self._fewer(len(losses), steps, parameters)
            reports.leave_out(steps - fewer)
            steps = fewer
            reports.one_more(loss, self.preview)
        if self.stopping and losses:
            self.stopping.take_best(parameters)
        return losses

    def add_gradients(self, step: int) -> float:
        """The loss. Gradients are added up micro-batch by micro-batch: one is held at a time."""
        parts: list[Tensor] = []
        for term in self.terms:
            for part in term(step):
                if part.requires_grad:
                    part.backward()
                parts.append(part.detach())
        return float(sum(parts))  # once a step: what is read makes a device wait

    def _fewer(self, done: int, steps: int, parameters: Sequence[nn.Parameter]) -> int:
        """The steps to take in all, after a look at what is done so far."""
        if self.stopping is None or (done % EVERY and done < steps):
            return steps
        is_done = self.stopping.look(parameters)
        return min(steps, done + COOL_DOWN) if is_done else steps

    def _rate(self, step: int, steps: int) -> float:
        """Of the peak rate."""
        return _steady(step, steps) if self.stopping else _cosine(step, steps)

    def _set_strength(self, strength: float) -> None:
        for lora in self.loras:
            lora.set_strength(strength)

    def _draw_strength(self) -> float:
        low, high = (1.0, 1.0) if self.settings.objective == "ascent" else STRENGTHS
        return low + (high - low) * float(torch.rand((), generator=self.generator))


def _cosine(step: int, steps: int) -> float:
    return _warm(step) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / max(1, steps))))


def _steady(step: int, steps: int) -> float:
    """The whole rate until COOL_DOWN steps before the end."""
    return _warm(step) * min(1.0, (steps - step) / COOL_DOWN)


def _warm(step: int) -> float:
    return min(1.0, (step + 1) / WARM_UP_STEPS)
