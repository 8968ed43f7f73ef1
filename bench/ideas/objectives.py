"""What of the concept's prompts is moved, and where: away from itself, to a random vector."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from unlearn_core.forgetting.run import UnlearnRun
from unlearn_core.lora.encoder_lora import EncoderLora
from unlearn_core.text.token_trees import encode_groups
from unlearn_core.training.examples import ForgetLesson
from unlearn_core.training.loop import Training
from unlearn_core.training.picture_loss import PictureLoss
from unlearn_core.words.prompts import OWN_STATE, ROLE_CONCEPT, ROLE_EOS, ROLE_PAD, whole_prompts

ETA = 1.0
"""Strength of ESD's negative guidance."""
MISDIRECTED = (ROLE_CONCEPT, ROLE_EOS, ROLE_PAD)


def negative_target(empty: Tensor, concept: Tensor, eta: float = ETA) -> Tensor:
    """e(empty) - eta * (e(concept) - e(empty)): ESD (Gandikota et al. 2023, arXiv 2303.07345),
    equation 5.

    The coefficients sum to 1, so predictions of noise and of velocity give the same picture.
    """
    return empty - eta * (concept - empty)


class NegativePictureLoss(PictureLoss):
    """Moves the prediction under the concept's prompts onto `negative_target` of the unchanged
    model, on the noised pictures where ESD has half-drawn ones.
    """

    def __init__(self, *arguments: Any) -> None:
        """As PictureLoss."""
        super().__init__(*arguments)
        lora, learned = arguments[2], arguments[5]
        groups = [self.prompts.token_ids, whole_prompts([""]).token_ids]
        with lora.disabled():
            (_, self.own_text), (_, self.empty_text) = encode_groups(self.encoder, groups, learned)

    def _target(self, rows: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        own = self.own_text[rows.to(self.own_text.device)]
        concept = self.model.predict(noisy, timesteps, own)
        empty = self.model.predict(noisy, timesteps, self.empty_text.expand_as(own))
        return negative_target(empty, concept)


class NegativeRun(UnlearnRun):
    """The picture term is that of `NegativePictureLoss`."""

    def _training(self, lora: EncoderLora) -> Training:
        training = super()._training(lora)
        (plan,), (part,) = self._plans, self.parts
        learned = part.learned.vectors.to(self.encoder.device) if part.learned else None
        training.extra_loss = NegativePictureLoss(
            self.model, self.encoder, lora, self.latents(plan.concept), plan, learned,
            self.settings, self.generator, self.memory.rows,
        )  # fmt: skip
        return training


def random_targets(
    lessons: Iterable[ForgetLesson], generator: torch.Generator
) -> list[ForgetLesson]:
    """The lessons with one random vector a role as targets of the name, EOS and pads.

    Misdirection as in HiRM (arXiv 2602.19631). Each vector is drawn from a normal distribution with
    mean and covariance of the targets in its role. Positions before the concept keep their own
    states; words behind it keep the stand-in's, so that their meaning stays.
    """
    lessons = list(lessons)
    targets = torch.cat([lesson.targets.flatten(0, 1) for lesson in lessons])
    roles = torch.cat([_moved_roles(lesson).flatten() for lesson in lessons])
    vectors = {
        role: _drawn_like(targets[roles == role], generator)
        for role in MISDIRECTED
        if bool((roles == role).any())
    }
    found = []
    for lesson in lessons:
        changed, moved = lesson.targets.clone(), _moved_roles(lesson)
        for role, vector in vectors.items():
            changed[moved == role] = vector
        found.append(dataclasses.replace(lesson, targets=changed))
    return found


def _moved_roles(lesson: ForgetLesson) -> Tensor:
    """Roles, -1 where a position keeps its own state."""
    return torch.where(lesson.source == OWN_STATE, -1, lesson.roles)


def _drawn_like(states: Tensor, generator: torch.Generator) -> Tensor:
    """One vector (width,) with mean and covariance of states (n, width): a random mixture of them.

    sum_i z_i (s_i - mean) / sqrt(n) with standard normal z has just that covariance.
    """
    mixture = torch.randn(len(states), generator=generator).to(states)
    mean = states.mean(0)
    vector: Tensor = mean + mixture @ (states - mean) / len(states) ** 0.5
    return vector


class RandomVectorRun(UnlearnRun):
    """The forget targets are random vectors, see `random_targets`."""

    def _training(self, lora: EncoderLora) -> Training:
        training = super()._training(lora)
        training.forget = random_targets(training.forget, self.generator)
        return training


UNSUPERVISED = -1
"""In the place of a role that no distance counts."""


def supervised(lessons: Iterable[ForgetLesson], moved: tuple[int, ...]) -> list[ForgetLesson]:
    """The lessons with targets at positions of the roles `moved` alone."""
    return [
        dataclasses.replace(
            lesson,
            roles=torch.where(
                torch.isin(lesson.roles, torch.tensor(moved).to(lesson.roles)),
                lesson.roles,
                UNSUPERVISED,
            ),
        )
        for lesson in lessons
    ]


class NameOnlyRun(UnlearnRun):
    """Only the name's own positions are moved; EOS and the pads go where they will."""

    moved: tuple[int, ...] = (ROLE_CONCEPT,)

    def _training(self, lora: EncoderLora) -> Training:
        training = super()._training(lora)
        training.forget = supervised(training.forget, self.moved)
        return training


class NameAndEndRun(NameOnlyRun):
    """The name's own positions and EOS are moved; the pads go where they will."""

    moved = (ROLE_CONCEPT, ROLE_EOS)
