"""The one optimisation loop: distil the concept's prompts onto the stand-in's, keep the rest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import TrainingFailed
from ..lora.encoder_lora import EncoderLora
from ..lora.keys import ModuleKey
from ..progress import Progress, RunMonitor, preview_is_due, stop_if_asked
from ..settings import UnlearnSettings
from ..text.text_encoder import TextEncoder
from .adversary import EVERY
from .examples import ForgetLesson, Lesson
from .losses import RoleScales, role_distance
from .null_space import project_away

WARM_UP_STEPS = 10
STRENGTHS = 0.6, 1.3
"""Lowest and highest LoRA strength drawn for a step: users choose it when they draw."""
TOKENS = 512
"""In one pass through the trained layers, whose states are held for the gradient."""


ExtraLoss = Callable[[int], Tensor]
"""A further term of the loss, given the step; it draws its own batch."""


@dataclass
class Training:
    """One run of the loop over lessons; `run` returns the loss of every step."""

    encoder: TextEncoder
    lora: EncoderLora
    forget: list[ForgetLesson]
    keep: list[Lesson]
    guard: Lesson
    scales: RoleScales
    settings: UnlearnSettings
    generator: torch.Generator
    bases: dict[ModuleKey, Tensor]
    preview: Callable[[], Tensor]
    """What is drawn now, asked for a few times in a run."""
    extra_loss: ExtraLoss | None = None
    find_adversary: Callable[[], list[ForgetLesson]] | None = None

    def run(self, monitor: RunMonitor) -> list[float]:
        """Train; raises Cancelled, or TrainingFailed when the loss is not a number."""
        settings = self.settings
        optimizer = torch.optim.Adam(self.lora.parameters(), lr=settings.learning_rate)
        losses: list[float] = []
        started = time.monotonic()
        for step in range(settings.steps):
            stop_if_asked(monitor)
            if self.find_adversary and step and step % EVERY == 0:
                self.forget = [*self.forget, *self.find_adversary()]
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, settings.steps)
            self.lora.set_strength(self._draw_strength())
            optimizer.zero_grad()
            loss = self._learn(step)
            if not math.isfinite(loss):
                raise TrainingFailed(
                    f"The loss is {loss} at step {step + 1}: the learning rate "
                    f"{settings.learning_rate:g} is too high for this model. Lower it."
                )
            torch.nn.utils.clip_grad_norm_(self.lora.parameters(), 1.0)
            optimizer.step()
            project_away(self.lora, self.bases)
            losses.append(loss)
            per_step = (time.monotonic() - started) / (step + 1)
            show = preview_is_due(monitor, step + 1, settings.steps)
            self.lora.set_strength(1.0)
            monitor.report(
                Progress(
                    stage="forgetting",
                    step=step + 1,
                    total=settings.steps,
                    loss=losses[-1],
                    seconds_left=per_step * (settings.steps - step - 1),
                    preview=self.preview() if show else None,
                )
            )
        self.lora.set_strength(1.0)
        return losses

    def _learn(self, step: int) -> float:
        """The loss. Gradients are added up term by term, so that one term is held at a time."""
        total = 0.0
        for term in self._terms(step):
            if term.requires_grad:
                term.backward()
            total += float(term.detach())
        return total

    def _terms(self, step: int) -> Iterator[Tensor]:
        settings = self.settings
        keep = self._draw(self.keep)
        # The guard's few prompts go with those to keep: a pass of its own is mostly overhead.
        guard = self.guard.cut(keep.length)
        forget = self._draw(self.forget) if settings.objective == "stand-in" else None
        yield from self._passes((keep, settings.keep_weight), (guard, settings.guard_weight))
        if forget is not None:
            yield from self._passes((forget, settings.forget_weight))
        if self.extra_loss is not None:
            yield self.extra_loss(step)

    def _passes(self, *parts: tuple[Lesson, float]) -> Iterator[Tensor]:
        """Weight times mean distance of lessons of one length, in terms of TOKENS at most."""
        counted = [(lesson, weight) for lesson, weight in parts if weight > 0 and len(lesson)]
        if not counted:
            return
        rows = [
            torch.cat([getattr(lesson, name) for lesson, _ in counted])
            for name in ("states", "targets", "roles")
        ]
        shares = [torch.full((len(lesson),), weight / len(lesson)) for lesson, weight in counted]
        rows.append(torch.cat(shares).to(rows[0]))
        most = max(1, TOKENS // counted[0][0].length)
        for states, targets, roles, share in zip(*(part.split(most) for part in rows), strict=True):
            far = role_distance(self.encoder.tail(states), targets, roles, self.scales)
            yield (share * far).sum()

    def _draw(self, lessons: Sequence[Lesson]) -> Lesson:
        """A batch of one length; every prompt is as likely as any other."""
        row = int(torch.randint(sum(map(len, lessons)), (), generator=self.generator))
        for lesson in lessons:
            if row < len(lesson):
                break
            row -= len(lesson)
        chosen = torch.randint(len(lesson), (self.settings.batch_size,), generator=self.generator)
        return lesson.rows(chosen.to(lesson.states.device))

    def _draw_strength(self) -> float:
        low, high = (1.0, 1.0) if self.settings.objective == "ascent" else STRENGTHS
        return low + (high - low) * float(torch.rand((), generator=self.generator))


def _schedule(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / max(1, steps))))
