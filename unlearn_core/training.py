"""The one optimisation loop: distil the concept's prompts onto the stand-in's, keep the rest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import TrainingFailed
from .lent_model import Progress, RunMonitor, preview_is_due, stop_if_asked
from .lora import EncoderLora
from .lora_keys import ModuleKey
from .losses import RoleScales, role_distance
from .prompts import OWN_STATE, ForgetPrompts, Prompts
from .settings import UnlearnSettings
from .text_encoder import TextEncoder
from .tokenizer import CHUNK

ENCODE_BATCH = 64
WARM_UP_STEPS = 10
SHORT = 32
"""Positions of a short batch. The encoder is causal: leaving later positions out changes nothing
before them, so three steps of four spare more than half of the work."""
LONG_EVERY = 4


@dataclass
class Lesson:
    """Prompts with what is frozen about them, computed once: N rows."""

    token_ids: Tensor
    """(N, 77) int64."""
    roles: Tensor
    """(N, 77) int64."""
    states: Tensor
    """(N, 77, width) float32: what enters the first trained layer."""
    targets: Tensor
    """(N, 77, width) float32: the conditioning that the trained encoder should give."""
    ends: Tensor
    """(N,) int64: the position of EOS."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def joined(self, other: Lesson) -> Lesson:
        """The rows of both."""
        return Lesson(
            torch.cat([self.token_ids, other.token_ids]),
            torch.cat([self.roles, other.roles]),
            torch.cat([self.states, other.states]),
            torch.cat([self.targets, other.targets]),
            torch.cat([self.ends, other.ends]),
        )


@torch.no_grad()
def encode_all(
    encoder: TextEncoder,
    token_ids: Tensor,
    learned: Tensor | None = None,
    monitor: RunMonitor | None = None,
) -> tuple[Tensor, Tensor]:
    """(states before the tail, conditioning) of N chunks, each (N, 77, width) float32.

    Raises Cancelled between two batches if the user asked to stop.
    """
    states, conditioning = [], []
    for ids in token_ids.split(ENCODE_BATCH):
        if monitor is not None:
            stop_if_asked(monitor)
        before = encoder.prefix(ids, learned)
        states.append(before)
        conditioning.append(encoder.tail(before, ids))
    return torch.cat(states), torch.cat(conditioning)


def forget_lesson(
    encoder: TextEncoder,
    lora: EncoderLora,
    prompts: ForgetPrompts,
    learned: Tensor | None,
    monitor: RunMonitor | None = None,
) -> Lesson:
    """Concept prompts with the aligned states of the stand-in's prompts as targets."""
    with lora.disabled():
        states, own = encode_all(encoder, prompts.token_ids, learned, monitor)
        _, stand_in = encode_all(encoder, prompts.stand_in_ids, monitor=monitor)
    source = prompts.source.to(own.device)
    gathered = stand_in.gather(1, source.clamp(min=0)[..., None].expand_as(own))
    targets = torch.where((source == OWN_STATE)[..., None], own, gathered)
    return _lesson(encoder, prompts, states, targets)


def keep_lesson(
    encoder: TextEncoder, lora: EncoderLora, prompts: Prompts, monitor: RunMonitor | None = None
) -> Lesson:
    """Prompts whose own states are the targets."""
    with lora.disabled():
        states, own = encode_all(encoder, prompts.token_ids, monitor=monitor)
    return _lesson(encoder, prompts, states, own)


def _lesson(encoder: TextEncoder, prompts: Prompts, states: Tensor, targets: Tensor) -> Lesson:
    ids, roles, ends = (
        value.to(encoder.device) for value in (prompts.token_ids, prompts.roles, prompts.ends)
    )
    return Lesson(ids, roles, states, targets, ends)


@torch.no_grad()
def felt_directions(
    encoder: TextEncoder, lora: EncoderLora, guard: Lesson, share: float = 0.25
) -> dict[ModuleKey, Tensor]:
    """What each trained projection sees of the guard prompts: an orthonormal basis (in, m).

    A LoRA whose `down` is orthogonal to it changes nothing for these prompts (null-space
    constraint, as in AlphaEdit, arXiv 2410.02355). At most `share` of the input's dimensions are
    taken, the strongest first, and none below a millionth of the energy.
    """
    seen: dict[ModuleKey, Tensor] = {}
    hooks = []
    for key in lora.modules:

        def remember(_: object, inputs: tuple[Tensor, ...], key: ModuleKey = key) -> None:
            seen[key] = inputs[0].detach().flatten(0, -2)

        hooks.append(lora.frozen(key).register_forward_pre_hook(remember))
    try:
        with lora.disabled():
            encoder.tail(guard.states, guard.token_ids)
    finally:
        for hook in hooks:
            hook.remove()
    bases = {}
    for key, inputs in seen.items():
        energy, vectors = torch.linalg.eigh((inputs.T @ inputs).double())
        strongest = energy.flip(0)
        wanted = int((strongest > strongest[0] * 1e-6).sum())
        most = max(1, int(share * inputs.shape[1]))
        bases[key] = vectors.flip(1)[:, : min(wanted, most)].float().contiguous()
    return bases


@torch.no_grad()
def project_away(lora: EncoderLora, bases: dict[ModuleKey, Tensor]) -> None:
    """Make every `down` orthogonal to its basis."""
    for key, basis in bases.items():
        down = lora.down(key)
        down.sub_((down @ basis) @ basis.T)


ExtraLoss = Callable[[int], Tensor]
"""A further term of the loss, given the step; it draws its own batch."""


@dataclass
class Training:
    """One run of the loop over lessons; `run` returns the loss of every step."""

    encoder: TextEncoder
    lora: EncoderLora
    forget: Lesson
    keep: Lesson
    guard: Lesson
    scales: RoleScales
    settings: UnlearnSettings
    generator: torch.Generator
    bases: dict[ModuleKey, Tensor]
    preview: Callable[[], Tensor]
    """What is drawn now, asked for a few times in a run."""
    extra_loss: ExtraLoss | None = None
    find_adversary: Callable[[], Lesson] | None = None

    def run(self, monitor: RunMonitor) -> list[float]:
        """Train; raises Cancelled, or TrainingFailed when the loss is not a number."""
        settings = self.settings
        optimizer = torch.optim.Adam(self.lora.parameters(), lr=settings.learning_rate)
        losses: list[float] = []
        started = time.monotonic()
        for step in range(settings.steps):
            stop_if_asked(monitor)
            if self.find_adversary and step and step % settings.adversary_every == 0:
                self.forget = self.forget.joined(self.find_adversary())
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, settings.steps)
            self.lora.set_strength(self._draw_strength())
            optimizer.zero_grad()
            loss = self._loss(step)
            if not bool(loss.isfinite()):
                raise TrainingFailed(
                    f"The loss is {float(loss.detach())} at step {step + 1}: the learning rate "
                    f"{settings.learning_rate:g} is too high for this model. Lower it."
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.lora.parameters(), 1.0)
            optimizer.step()
            project_away(self.lora, self.bases)
            losses.append(float(loss.detach()))
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

    def _loss(self, step: int) -> Tensor:
        settings = self.settings
        positions = CHUNK if step % LONG_EVERY == 0 else SHORT
        parts: list[tuple[Lesson, Tensor, float]] = [
            (self.keep, self._draw(self.keep, positions), settings.keep_weight),
            (self.guard, torch.arange(len(self.guard)), settings.guard_weight),
        ]
        if settings.objective == "stand-in":
            rows = self._draw(self.forget, positions)
            parts.insert(0, (self.forget, rows, settings.forget_weight))
        parts = [part for part in parts if part[2] > 0 and len(part[1])]
        total = self.forget.states.new_zeros(())
        if parts:
            distances = self._distances([(lesson, rows) for lesson, rows, _ in parts], positions)
            for distance, (_, _, weight) in zip(distances, parts, strict=True):
                total = total + weight * distance
        if self.extra_loss is not None:
            total = total + self.extra_loss(step)
        return total

    def _distances(self, parts: list[tuple[Lesson, Tensor]], positions: int) -> list[Tensor]:
        ids = torch.cat([lesson.token_ids[rows, :positions] for lesson, rows in parts])
        states = torch.cat([lesson.states[rows, :positions] for lesson, rows in parts])
        targets = torch.cat([lesson.targets[rows, :positions] for lesson, rows in parts])
        roles = torch.cat([lesson.roles[rows, :positions] for lesson, rows in parts])
        distance = role_distance(self.encoder.tail(states, ids), targets, roles, self.scales)
        return [part.mean() for part in distance.split([len(rows) for _, rows in parts])]

    def _draw(self, lesson: Lesson, positions: int) -> Tensor:
        fitting = (lesson.ends < positions - 2).nonzero().flatten().cpu()
        if positions == CHUNK or len(fitting) == 0:
            fitting = torch.arange(len(lesson))
        chosen = torch.randint(len(fitting), (self.settings.batch_size,), generator=self.generator)
        return fitting[chosen].to(lesson.states.device)

    def _draw_strength(self) -> float:
        low, high = self.settings.strength_low, self.settings.strength_high
        return low + (high - low) * float(torch.rand((), generator=self.generator))


def _schedule(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / max(1, steps))))
