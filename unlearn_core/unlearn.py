"""The public call: a concept in, a LoRA that forgets it out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from . import closed_form
from .adversary import Adversary
from .concept import MEASURED_KINDS, Concept
from .devices import text_products_dtype
from .errors import BadConcept, BadSettings
from .free_memory import give_memory_back
from .inversion import LearnedVectors, encode_pictures, invert, preview_picture
from .lent_model import LentModel, RunMonitor, SilentMonitor, Stoppable, stop_if_asked
from .lesson_plan import LessonPlan, mentions, plan_lessons
from .lessons import forget_lessons, keep_lessons, role_scales, whole_lesson
from .live_preview import LivePreview
from .lora import EncoderLora, chosen_modules
from .lora_file import LoraWeights, complete, round_to_half
from .picture_loss import PictureLoss
from .prompt_templates import GUARD_PROMPTS
from .prompts import Name, fill, make_prompts, whole_prompts
from .settings import UnlearnSettings
from .stand_in import Neighbourhood, StandIn, choose_stand_in, look_around, plain_template
from .text_encoder import TextEncoder
from .training import Training, felt_directions


@dataclass(frozen=True)
class UnlearnResult:
    """What a run gives back."""

    lora: LoraWeights
    """As its file holds it: rounded to float16, q, k, v and out complete, with metadata."""
    concept: Concept
    settings: UnlearnSettings
    stand_in: StandIn
    kept: tuple[str, ...]
    """Words that were kept first: the user's, then the nearest."""
    names: tuple[str, ...]
    """Everything that was forgotten as a word: name, synonyms, plural, misspellings."""
    learned: LearnedVectors | None
    """Word vectors from the pictures; None when there are none or they are not used."""
    losses: tuple[float, ...]
    notes: tuple[str, ...]
    """Sentences that the user should read."""
    seconds: dict[str, float]
    """Stage to seconds."""


def unlearn(
    model: LentModel,
    concept: Concept,
    settings: UnlearnSettings | None = None,
    monitor: RunMonitor | None = None,
    learned: LearnedVectors | None = None,
) -> UnlearnResult:
    """Train a text-encoder LoRA with which `model` no longer draws the concept.

    `learned` are vectors that `learn_vectors` gave before; without them they are learned from the
    concept's pictures, if the settings use these. The lent model is only read. Raises BadSettings,
    BadConcept, WrongModel, TrainingFailed or Cancelled.
    """
    settings, monitor = settings or UnlearnSettings(), monitor or SilentMonitor()
    return UnlearnRun(model, concept, settings, monitor, learned).go()


def learn_vectors(
    model: LentModel, concept: Concept, settings: UnlearnSettings, monitor: RunMonitor
) -> LearnedVectors:
    """The first step alone: word vectors from the concept's pictures, see `invert`."""
    encoder = build_encoder(model)
    styles = look_around(encoder, concept).known_styles[: settings.caption_styles]
    return invert(Stoppable(model, monitor), encoder, concept, settings, styles, monitor)


def build_encoder(model: LentModel) -> TextEncoder:
    """A private copy of the lent model's text encoder, on the model's device."""
    products = text_products_dtype(model.device)
    return TextEncoder(model.text_encoder_weights(), model.last_used_layer, model.device, products)


def draw_concept(model: LentModel, encoder: TextEncoder, concept: Concept, seed: int) -> Tensor:
    """The concept's plain prompt as this encoder draws it, (3, h, w) float32 in [0, 1]."""
    name = Name.of(concept.name, concept.kind)
    prompt = make_prompts([fill(plain_template(concept), name)])
    return preview_picture(model, encoder, prompt.token_ids[0], seed, None)


class UnlearnRun:
    """One call of `unlearn`, stage by stage."""

    def __init__(
        self,
        model: LentModel,
        concept: Concept,
        settings: UnlearnSettings,
        monitor: RunMonitor,
        learned: LearnedVectors | None,
    ) -> None:
        if not settings.forgets:
            raise BadSettings("Nothing would be forgotten: forget_weight is 0.")
        if settings.needs_unet and not concept.images:
            raise BadConcept(
                "These settings raise or compare the denoising loss of pictures, so they need "
                "pictures of the concept; give 4 or 5, or choose the preset balanced."
            )
        self.model = Stoppable(model, monitor)
        self.concept, self.settings, self.monitor = concept, settings, monitor
        self.learned = learned
        self.seconds: dict[str, float] = {}
        with self.stage("copying the text encoder"):
            self.encoder = build_encoder(model)
        self.modules = chosen_modules(settings, self.encoder.last_used_layer)
        self.generator = torch.Generator().manual_seed(settings.seed)

    def go(self) -> UnlearnResult:
        """Run all stages; raises as `unlearn` does."""
        with self.stage("choosing words"):
            stop_if_asked(self.monitor)
            around = look_around(self.encoder, self.concept)
        with self.stage("choosing the stand-in"):
            stand_in = self._choose(around)
        with self.stage("learning the concept"):
            learned = self._invert(around)
        plan = plan_lessons(
            self.encoder,
            self.concept,
            self.settings,
            around,
            stand_in,
            learned,
            self.generator,
        )
        weights, losses = self._forget(plan, learned)
        names = tuple(name.text for name in plan.names if not name.is_learned)
        return UnlearnResult(
            LoraWeights(weights.pairs, self._metadata(stand_in, plan.kept, names)),
            self.concept,
            self.settings,
            stand_in,
            plan.kept,
            names,
            learned,
            tuple(losses),
            tuple(self._notes(learned, stand_in)),
            self.seconds,
        )

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Measures how long a stage takes, and gives back what it no longer needs."""
        started = time.monotonic()
        yield
        give_memory_back()
        self.seconds[stage] = time.monotonic() - started

    def _choose(self, around: Neighbourhood) -> StandIn:
        settings = self.settings
        return choose_stand_in(
            self.encoder,
            self.concept,
            around,
            self.model,
            settings.stand_in_pictures,
            settings.seed,
            self.monitor,
        )

    def _invert(self, around: Neighbourhood) -> LearnedVectors | None:
        settings = self.settings
        if not settings.use_pictures:
            return None
        if self.learned is not None:
            return self.learned
        if settings.inversion_steps == 0 or not self.concept.images:
            return None
        styles = around.known_styles[: settings.caption_styles]
        return invert(self.model, self.encoder, self.concept, settings, styles, self.monitor)

    def _forget(
        self, plan: LessonPlan, learned: LearnedVectors | None
    ) -> tuple[LoraWeights, list[float]]:
        self.encoder.split_at(min(key.layer for key in self.modules))
        lora = EncoderLora(self.encoder, self.modules, self.settings.rank, self.generator)
        try:
            training = self._training(lora, plan, learned)
            with self.stage("forgetting"):
                losses = training.run(self.monitor)
            return round_to_half(complete(lora.export())), losses
        finally:
            lora.detach()
            self.encoder.split_at(0)

    def _training(
        self, lora: EncoderLora, plan: LessonPlan, learned: LearnedVectors | None
    ) -> Training:
        settings, encoder, generator = self.settings, self.encoder, self.generator
        vectors = learned.vectors.to(encoder.device) if learned else None
        with self.stage("preparing the prompts"):
            prompts = plan.forget_prompts(settings.forget_prompts)
            forget = forget_lessons(encoder, lora, prompts, vectors, self.monitor)
            kept = plan.keep_prompts(settings.keep_prompts)
            keep = keep_lessons(encoder, lora, kept, self.monitor)
            guarded = [prompt for prompt in GUARD_PROMPTS if not mentions(prompt, self.concept)]
            guard = whole_lesson(encoder, lora, whole_prompts(guarded))
            scales = role_scales(keep)
            bases = felt_directions(encoder, lora, guard) if settings.null_space_guard else {}
        training = Training(
            encoder, lora, forget, keep, guard, scales, settings, generator, bases,
            LivePreview(self.model, encoder, lora, self.concept, plan.kept, settings.seed),
        )  # fmt: skip
        if settings.closed_form:
            with self.stage("least squares"):
                closed_form.solve(encoder, lora, forget, keep, scales, settings.keep_weight, bases)
        if settings.adversary == "pgd":
            training.find_adversary = Adversary(
                encoder, lora, self.concept, plan.stand_in, settings, generator, scales
            ).find
        if settings.needs_unet:
            latents = encode_pictures(self.model, self.concept.images)
            training.extra_loss = PictureLoss(
                self.model, encoder, lora, latents, plan, vectors, settings, generator
            )
        return training

    def _notes(self, learned: LearnedVectors | None, stand_in: StandIn) -> Iterator[str]:
        concept, settings = self.concept, self.settings
        if not self.encoder.knows(concept.name):
            yield (
                f"The model has no word vector for {concept.name!r}: by this name it draws "
                "nothing in particular."
            )
        if concept.kind not in MEASURED_KINDS:
            yield f"Results for the kind {concept.kind!r} are not measured."
        if learned is None:
            left_out = concept.images or self.learned
            why = "these settings leave them out" if left_out else "no pictures"
            yield f"Learned vectors not used: {why}."
        elif not learned.accepted:
            yield (
                "The vectors learned from the pictures do not draw the concept in other styles "
                f"({learned.explained:.0%} of what its name does), so they are not used."
            )
        if stand_in.drawn == 0:
            yield f"Whether {stand_in.word!r} draws the concept was not tested (it takes the UNet)."
        elif stand_in.drawn_as_concept:
            yield (
                f"{stand_in.word!r} itself looks like the concept in {stand_in.drawn_as_concept} "
                f"of {stand_in.drawn} pictures; name another stand-in if you can."
            )
        if settings.closed_form and not any(key.module == "fc2" for key in self.modules):
            yield "The closed form changes fc2, which these settings leave alone."

    def _metadata(
        self, stand_in: StandIn, kept: tuple[str, ...], names: tuple[str, ...]
    ) -> dict[str, str]:
        return {
            "unlearn_concept": self.concept.name,
            "unlearn_synonyms": json.dumps(self.concept.synonyms),
            "unlearn_names": json.dumps(names),
            "unlearn_kind": self.concept.kind,
            "unlearn_stand_in": stand_in.word,
            "unlearn_kept": json.dumps(kept),
            "unlearn_pictures": str(len(self.concept.images)),
            "unlearn_settings": json.dumps(self.settings.as_dict(), sort_keys=True),
            "unlearn_base_model_hash": self.encoder.fingerprint(),
            "unlearn_torch": torch.__version__,
        }
