"""How the rest is kept: gradient surgery, mined prompts, random words."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from unlearn_core.concept import Concept, Kind
from unlearn_core.forgetting.prompt_plan import LessonPlan
from unlearn_core.forgetting.run import UnlearnRun
from unlearn_core.lora.encoder_lora import EncoderLora
from unlearn_core.training.examples import Lesson, keep_lessons
from unlearn_core.training.loop import Training
from unlearn_core.training.losses import role_distance
from unlearn_core.words.prompt_writer import PromptWriter
from unlearn_core.words.prompts import Name, Prompts

MINED_EVERY, MINED_FROM, MINED = 25, 400, 32
"""Steps between two minings, prompts that are looked through, and how many are taken."""
ROWS = 64
"""Prompts in one pass while mining."""


def surgery(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two gradients (n,), each rid of what works against the other.

    PCGrad (Yu et al. 2020, arXiv 2001.06782), algorithm 1: where their product is negative, each is
    projected onto the normal plane of the other.
    """
    product = one @ other
    if float(product) >= 0:
        return one + other
    first = one - product / other.square().sum() * other
    second = other - product / one.square().sum() * one
    return first + second


class Surgeon:
    """Takes the gradients of forgetting and of keeping apart, and joins them by `surgery`."""

    def __init__(self, training: Training) -> None:
        """Work for `training`."""
        self.training = training

    def learn(self, step: int) -> float:
        """In place of `Training._learn`: the loss; the joint gradient is left at the LoRA."""
        training, settings = self.training, self.training.settings
        keep = training._draw(training.keep)
        guard = training.guard.cut(keep.length)
        kept, holding = self._gradient(
            training._passes((keep, settings.keep_weight), (guard, settings.guard_weight))
        )
        forgotten, moving = self._gradient(self._forgetting(step))
        joint, start = surgery(moving, holding), 0
        for parameter in training.lora.parameters():
            parameter.grad = joint[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        return kept + forgotten

    def _forgetting(self, step: int) -> Iterator[Tensor]:
        training, settings = self.training, self.training.settings
        if settings.objective == "stand-in":
            yield from training._passes((training._draw(training.forget), settings.forget_weight))
        if training.extra_loss is not None:
            yield training.extra_loss(step)

    def _gradient(self, terms: Iterable[Tensor]) -> tuple[float, Tensor]:
        """The sum of the terms and its gradient at all of the LoRA, (n,)."""
        total, parameters = 0.0, self.training.lora.parameters()
        for parameter in parameters:
            parameter.grad = None
        for term in terms:
            if term.requires_grad:
                term.backward()
            total += float(term.detach())
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        return total, torch.cat([part.flatten() for part in parts])


class SurgeryRun(UnlearnRun):
    """Forgetting and keeping are joined by gradient surgery."""

    def _training(self, lora: EncoderLora) -> Training:
        training = super()._training(lora)
        training._learn = Surgeon(training).learn  # type: ignore[method-assign]
        return training


class Miner:
    """Every MINED_EVERY steps adds the MINED prompts that the LoRA moves most to those to keep."""

    def __init__(self, training: Training, candidates: list[Lesson]) -> None:
        """Work for `training`, whose own `_learn` is called; `candidates` may be kept too."""
        self.training, self.candidates = training, candidates
        self._learn: Callable[[int], float] = training._learn

    def learn(self, step: int) -> float:
        """Around `Training._learn`: mines when the step's gradient is taken.

        Nothing that is left of the step asks for the strength that was drawn for it.
        """
        loss = self._learn(step)
        if (step + 1) % MINED_EVERY == 0:
            self.training.lora.set_strength(1.0)
            self.training.keep = [*self.training.keep, *self.worst()]
        return loss

    @torch.no_grad()
    def worst(self) -> list[Lesson]:
        """The MINED prompts farthest from their unchanged states."""
        drifts = [self._drift(lesson) for lesson in self.candidates]
        chosen = torch.cat(drifts).topk(min(MINED, sum(map(len, drifts)))).indices
        found, start = [], 0
        for lesson in self.candidates:
            rows = chosen[(chosen >= start) & (chosen < start + len(lesson))] - start
            if len(rows):
                found.append(lesson.rows(rows))
            start += len(lesson)
        return found

    def _drift(self, lesson: Lesson) -> Tensor:
        training, parts = self.training, []
        for rows in torch.arange(len(lesson), device=lesson.states.device).split(ROWS):
            part = lesson.rows(rows)
            states = training.encoder.tail(part.states)
            parts.append(role_distance(states, part.targets, part.roles, training.scales))
        return torch.cat(parts)


def plain_keep_prompts(plan: LessonPlan, generator: torch.Generator) -> Prompts:
    """About MINED_FROM different plain prompts, half about the known nouns, half about styles."""
    around = plan.writer.surroundings
    kinds: tuple[tuple[Kind, tuple[str, ...]], ...] = (
        ("object", around.nouns),
        ("style", around.styles),
    )
    halves = []
    for kind, words in kinds:
        order = torch.randperm(len(words), generator=generator).tolist()
        names = [Name.of(words[i], kind) for i in order]
        if names:
            writer = PromptWriter(kind, around, generator, varied=False)
            halves.append(writer.keep(names, MINED_FROM // 2))
    texts = list(itertools.chain(*(half.texts for half in halves)))
    places = list({text: place for place, text in enumerate(texts)}.values())
    return Prompts(
        tuple(texts[place] for place in places),
        torch.cat([half.token_ids for half in halves])[places],
        torch.cat([half.roles for half in halves])[places],
    )


class MinedRun(UnlearnRun):
    """What drifts most while training is kept too, see `Miner`."""

    def _training(self, lora: EncoderLora) -> Training:
        training = super()._training(lora)
        prompts = plain_keep_prompts(self._plans[0], self.generator)
        candidates = keep_lessons(self.encoder, lora, prompts, self.monitor)
        training._learn = Miner(training, candidates).learn  # type: ignore[method-assign]
        return training


class FarKeepRun(UnlearnRun):
    """Keeps random words only, none of the nearest; keep_nearest=0 would keep the stand-in."""

    def _decide(self, concept: Concept) -> None:
        super()._decide(concept)
        plan = self._plans[-1]
        order = torch.randperm(len(plan.others), generator=self.generator).tolist()
        words = tuple(plan.others[i] for i in order)
        self._plans[-1] = dataclasses.replace(plan, kept=words)
        self.parts[-1] = dataclasses.replace(self.parts[-1], kept=())
