"""Building what is trained: examples from the prompts of every concept, and terms from these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..lora.encoder_lora import EncoderLora
from ..lora.keys import ModuleKey
from ..lora.null_space import felt_directions
from ..models.lent_model import LentModel
from ..progress import RunMonitor, StepCounter
from ..settings import UnlearnSettings
from ..text.text_encoder import TextEncoder
from ..training.adversary import AdversarialExamples, Adversary
from ..training.examples import (
    Examples,
    ForgetExamples,
    retain_examples,
    role_scales,
    whole_examples,
)
from ..training.loop import Training
from ..training.losses import RoleScales
from ..training.preview import LivePreview
from ..training.terms import (
    ASCENT_PROMPTS,
    AscentTerm,
    ConceptPictures,
    ForgetTerm,
    RetainTerm,
    Term,
    TextDistance,
)
from ..words.prompt_templates import GUARD_PROMPTS
from ..words.prompts import ForgetPrompts, Prompts, whole_prompts
from .part import Decision
from .prompt_plan import PromptPlan, mentions, prompts_each


@dataclass(frozen=True)
class WrittenPrompts:
    """All prompts of a run, before any tower has read them."""

    forget: tuple[ForgetPrompts, ...]
    """Each concept's."""
    retain: tuple[Prompts, ...]
    """Each concept's."""
    guard: Prompts


def write_prompts(plans: Sequence[PromptPlan], settings: UnlearnSettings) -> WrittenPrompts:
    """Write them; the guard leaves out what mentions a concept."""
    forget_count, retain_count = prompts_each(settings, len(plans))
    forget = tuple(plan.forget_prompts(forget_count) for plan in plans)
    retain = tuple(plan.retain_prompts(retain_count) for plan in plans)
    guarded = [
        prompt
        for prompt in GUARD_PROMPTS
        if not any(mentions(prompt, plan.concept) for plan in plans)
    ]
    return WrittenPrompts(forget, retain, whole_prompts(guarded))


@dataclass(frozen=True)
class TrainingSets:
    """The retain set and the guard as one tower reads them."""

    lora: EncoderLora
    retain: list[Examples]
    guard: Examples
    scales: RoleScales
    bases: dict[ModuleKey, Tensor]
    """What the guard's prompts make each projection see; empty without the null-space guard."""


def build_sets(
    lora: EncoderLora,
    written: WrittenPrompts,
    settings: UnlearnSettings,
    counter: StepCounter,
    monitor: RunMonitor,
) -> TrainingSets:
    """Encode what must not change: half of the stage PREPARING."""
    retain: list[Examples] = []
    for prompts in written.retain:
        retain += retain_examples(lora, prompts, monitor)
        counter.one_more()
    guard = whole_examples(lora, written.guard)
    bases = felt_directions(lora, guard.token_ids) if settings.null_space_guard else {}
    return TrainingSets(lora, retain, guard, role_scales(retain), bases)


def build_training(
    model: LentModel,
    encoder: TextEncoder,
    concepts: Sequence[Decision],
    sets: Sequence[TrainingSets],
    forget: Sequence[list[ForgetExamples]],
    settings: UnlearnSettings,
    generator: torch.Generator,
    preview: LivePreview,
    unet_rows: int,
) -> Training:
    """The loop with its terms, over the towers of `sets`.

    `forget` are each tower's; `unet_rows` pictures go through the UNet together.
    """
    terms: list[Term] = []
    loras = [part.lora for part in sets]
    training = Training(loras, terms, settings, generator, [part.bases for part in sets], preview)
    adversaries: list[AdversarialExamples] = []
    for part, examples in zip(sets, forget, strict=True):
        distance = TextDistance(part.lora.tower, part.scales, settings.batch_size, generator)
        weights = settings.keep_weight, settings.guard_weight
        terms.append(RetainTerm(distance, part.retain, part.guard, *weights))
        if settings.objective == "ascent":
            continue
        forgetting = ForgetTerm(distance, examples, settings.forget_weight)
        terms.append(forgetting)
        if settings.adversary == "pgd":
            found = [
                Adversary(part.lora, c.plan.concept, c.plan.stand_in, generator, part.scales)
                for c in concepts
            ]
            adversaries.append(AdversarialExamples(found, forgetting))
    if settings.objective == "ascent":
        pictures = [_pictures(encoder, loras, concept) for concept in concepts]
        weight = settings.forget_weight
        terms.append(AscentTerm(model, encoder, pictures, weight, generator, unet_rows))
    training.before_step = adversaries
    return training


def _pictures(
    encoder: TextEncoder, loras: Sequence[EncoderLora], concept: Decision
) -> ConceptPictures:
    assert concept.latents is not None  # the settings need pictures
    prompts = concept.plan.forget_prompts(ASCENT_PROMPTS)
    vectors = concept.vectors(encoder.device)
    return ConceptPictures.of(encoder, loras, concept.latents, prompts, vectors)
