"""Building what is trained: examples from the prompts of every concept, and terms from these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..lora.encoder_lora import EncoderLora
from ..lora.keys import ModuleKey
from ..models.lent_model import LentModel
from ..progress import PREPARING, Progress, RunMonitor
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
from ..training.null_space import felt_directions
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
from ..words.prompts import ForgetPrompts, whole_prompts
from .part import Part
from .prompt_plan import PromptPlan, mentions, prompts_each


@dataclass(frozen=True)
class Decision:
    """All that a run has decided for one of its concepts."""

    part: Part
    plan: PromptPlan
    latents: Tensor | None
    """Of the pictures, (N, 4, h, w); None where they are not used."""
    doubt: str | None
    """A sentence for the user where the pictures do not fit the name."""

    def vectors(self, device: torch.device) -> Tensor | None:
        """The learned word vectors, (n, width)."""
        return self.part.learned.vectors.to(device) if self.part.learned else None


@dataclass(frozen=True)
class TrainingSets:
    """The retain set and the guard, encoded, and the forget set's prompts, which are not yet."""

    forget_prompts: tuple[ForgetPrompts, ...]
    """Each concept's."""
    retain: list[Examples]
    guard: Examples
    scales: RoleScales
    bases: dict[ModuleKey, Tensor]
    """What the guard's prompts make each projection see; empty without the null-space guard."""


def build_sets(
    encoder: TextEncoder,
    lora: EncoderLora,
    plans: Sequence[PromptPlan],
    settings: UnlearnSettings,
    monitor: RunMonitor,
) -> TrainingSets:
    """Write all prompts, and encode those that must not change: half of the stage PREPARING."""
    forget_count, retain_count = prompts_each(settings, len(plans))
    forget_prompts = tuple(plan.forget_prompts(forget_count) for plan in plans)
    retain_prompts = [plan.retain_prompts(retain_count) for plan in plans]
    retain: list[Examples] = []
    for number, prompts in enumerate(retain_prompts, start=1):
        retain += retain_examples(encoder, lora, prompts, monitor)
        monitor.report(Progress(PREPARING, number, 2 * len(plans)))
    guarded = [
        prompt
        for prompt in GUARD_PROMPTS
        if not any(mentions(prompt, plan.concept) for plan in plans)
    ]
    guard = whole_examples(encoder, lora, whole_prompts(guarded))
    bases = felt_directions(encoder, lora, guard) if settings.null_space_guard else {}
    return TrainingSets(forget_prompts, retain, guard, role_scales(retain), bases)


def build_training(
    model: LentModel,
    encoder: TextEncoder,
    lora: EncoderLora,
    concepts: Sequence[Decision],
    sets: TrainingSets,
    forget: list[ForgetExamples],
    settings: UnlearnSettings,
    generator: torch.Generator,
    unet_rows: int,
) -> Training:
    """The loop with its terms; `unet_rows` pictures go through the UNet together."""
    first = concepts[0].part
    preview = LivePreview(model, encoder, lora, first.concept, first.kept, settings.seed)
    distance = TextDistance(encoder, sets.scales, settings.batch_size, generator)
    weights = settings.keep_weight, settings.guard_weight
    terms: list[Term] = [RetainTerm(distance, sets.retain, sets.guard, *weights)]
    training = Training(lora, terms, settings, generator, sets.bases, preview)
    if settings.objective == "ascent":
        pictures = [_pictures(encoder, lora, concept) for concept in concepts]
        weight = settings.forget_weight
        terms.append(AscentTerm(model, encoder, pictures, weight, generator, unet_rows))
        return training
    forgetting = ForgetTerm(distance, forget, settings.forget_weight)
    terms.append(forgetting)
    if settings.adversary == "pgd":
        adversaries = [
            Adversary(encoder, lora, c.plan.concept, c.plan.stand_in, generator, sets.scales)
            for c in concepts
        ]
        training.before_step = AdversarialExamples(adversaries, forgetting)
    return training


def _pictures(encoder: TextEncoder, lora: EncoderLora, concept: Decision) -> ConceptPictures:
    assert concept.latents is not None  # the settings need pictures
    prompts = concept.plan.forget_prompts(ASCENT_PROMPTS)
    vectors = concept.vectors(encoder.device)
    return ConceptPictures.of(encoder, lora, concept.latents, prompts, vectors)
