"""One run on one or more concepts, stage by stage."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor

from ..concept import Concept
from ..errors import BadConcept, BadSettings
from ..lora.encoder_lora import EncoderLora, chosen_modules
from ..lora.weights import LoraWeights, complete, round_to_half
from ..models.devices import give_memory_back
from ..models.lent_model import LentModel, Stoppable, build_encoder
from ..models.sampling import encode_pictures
from ..progress import LEAST_SQUARES, PREPARING, Progress, RunMonitor, stop_if_asked
from ..settings import UnlearnSettings, presets_where
from ..training.adversary import Adversary
from ..training.examples import (
    ForgetLesson,
    Lesson,
    forget_lessons,
    keep_lessons,
    role_scales,
    whole_lesson,
)
from ..training.inversion import LearnedVectors, invert
from ..training.least_squares import LeastSquares, solved_for
from ..training.loop import Training
from ..training.losses import RoleScales
from ..training.null_space import felt_directions
from ..training.picture_loss import PROMPTS, PictureLoss
from ..training.preview import LivePreview
from ..words.naming import FoundWords, doubt_name
from ..words.neighbours import KnownWords, Neighbourhood, known_words, look_around
from ..words.prompt_templates import GUARD_PROMPTS
from ..words.prompts import ForgetPrompts, Prompts, whole_prompts
from ..words.stand_in import choose_stand_in
from .held_out import measure_moved
from .memory_plan import MemoryMeter, MemoryReport, plan_memory, text_sizes
from .part import PARTS, Part, concept_metadata, part_notes
from .prompt_plan import LessonPlan, mentions, plan_lessons, prompts_each


class UnlearnRun:
    """One run on one or more concepts, stage by stage."""

    def __init__(
        self,
        model: LentModel,
        concepts: Sequence[Concept],
        settings: UnlearnSettings,
        monitor: RunMonitor,
        learned: LearnedVectors | None = None,
        found: FoundWords | None = None,
    ) -> None:
        """`learned` and `found` are of a single concept: vectors learned before, and its name."""
        if settings.forget_weight == 0:
            raise BadSettings("Nothing would be forgotten: forget_weight is 0.")
        if settings.needs_pictures and not all(concept.images for concept in concepts):
            without = presets_where(lambda settings: not settings.needs_pictures)
            raise BadConcept(
                "These settings raise the denoising loss of pictures, so they need pictures of the "
                f"concept; give 4 or 5, or choose the preset {without}."
            )
        self.meter = MemoryMeter(model)
        self.concepts, self.settings, self.monitor = tuple(concepts), settings, monitor
        self.parts: list[Part] = []
        self._plans: list[LessonPlan] = []
        self._doubts: list[str | None] = []
        self._learned, self._found = learned, found
        self.seconds: dict[str, float] = {}
        with self.stage("copying the text encoder"):
            self.encoder = build_encoder(model)
        self.modules = chosen_modules(settings, self.encoder.last_used_layer)
        pictures = sum(len(concept.images) for concept in concepts)
        self.memory = plan_memory(
            model, text_sizes(self.encoder), settings,
            0 if learned and not settings.needs_pictures else pictures,
            self.meter.free, monitor.shows_pictures, len(concepts),
        )  # fmt: skip
        self.lent, self.model = model, Stoppable(model, monitor, self.memory.drawn)
        self._latents: dict[int, Tensor] = {}
        self.generator = torch.Generator().manual_seed(settings.seed)

    def go(self) -> tuple[LoraWeights, tuple[float, ...]]:
        """Run all stages: the LoRA and the losses; raises as `unlearn` does."""
        with self.memory.followed(self.lent):
            for concept in self.concepts:
                self._decide(concept)
            weights, losses = self._forget()
        return LoraWeights(weights.pairs, self._metadata()), tuple(losses)

    @property
    def memory_report(self) -> MemoryReport:
        """What was estimated beside what was used."""
        return self.meter.report(self.memory)

    def latents(self, concept: Concept) -> Tensor:
        """The latents of a concept's pictures, encoded once."""
        number = next(i for i, other in enumerate(self.concepts) if other is concept)
        if number not in self._latents:
            self._latents[number] = encode_pictures(self.model, concept.images)
        return self._latents[number]

    @cached_property
    def _known(self) -> KnownWords:
        return known_words(self.encoder, self.concepts)

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Measures how long a stage takes, and gives back what it no longer needs."""
        started = time.monotonic()
        yield
        give_memory_back()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - started

    def _decide(self, concept: Concept) -> None:
        settings, encoder = self.settings, self.encoder
        with self.stage("choosing words"):
            stop_if_asked(self.monitor)
            around = look_around(encoder, concept, self._known)
        with self.stage("choosing the stand-in"):
            stand_in = choose_stand_in(
                encoder, concept, around, self.model, settings.stand_in_pictures, settings.seed,
                self.monitor,
            )  # fmt: skip
        self._doubts.append(None)
        with self.stage("learning the concept"):
            learned = self._invert(concept, around)
        plan = plan_lessons(encoder, concept, settings, around, stand_in, learned, self.generator)
        names = tuple(name.text for name in plan.names if not name.is_learned)
        self.parts.append(Part(concept, stand_in, plan.kept, names, learned))
        self._plans.append(plan)

    def _invert(self, concept: Concept, around: Neighbourhood) -> LearnedVectors | None:
        settings = self.settings
        if not settings.use_pictures:
            return None
        if self._learned is not None:
            return self._learned
        if settings.inversion_steps == 0 or not concept.images:
            return None
        if self._found is None:
            self._doubts[-1] = doubt_name(
                self.model, self.encoder, concept, self.latents(concept), settings.seed
            )
        styles = around.known_styles[: settings.caption_styles]
        return invert(
            self.model, self.encoder, concept, settings, styles, self.monitor,
            self.latents(concept), self.memory.rows,
        )  # fmt: skip

    def _forget(self) -> tuple[LoraWeights, list[float]]:
        self.encoder.split_at(min(key.layer for key in self.modules))
        lora = EncoderLora(self.encoder, self.modules, self.settings.rank, self.generator)
        try:
            training = self._training(lora)
            with self.stage("forgetting"):
                losses = training.run(self.monitor)
                self.parts = [self._with_moved(part, lora, training.scales) for part in self.parts]
            return round_to_half(complete(lora.export())), losses
        finally:
            lora.detach()
            self.encoder.split_at(0)

    def _with_moved(self, part: Part, lora: EncoderLora, scales: RoleScales) -> Part:
        kind, word = part.concept.kind, part.stand_in.word
        moved = measure_moved(self.encoder, lora, part.names, kind, word, scales)
        return dataclasses.replace(part, moved=moved)

    def _training(self, lora: EncoderLora) -> Training:
        settings, encoder, generator = self.settings, self.encoder, self.generator
        vectors = [
            part.learned.vectors.to(encoder.device) if part.learned else None for part in self.parts
        ]
        with self.stage(PREPARING):
            count, kept_count = prompts_each(settings, len(self._plans))
            asked = [plan.forget_prompts(count) for plan in self._plans]
            keep = self._keep_lessons(lora, [plan.keep_prompts(kept_count) for plan in self._plans])
            guarded = [
                prompt
                for prompt in GUARD_PROMPTS
                if not any(mentions(prompt, concept) for concept in self.concepts)
            ]
            guard = whole_lesson(encoder, lora, whole_prompts(guarded))
            scales = role_scales(keep)
            bases = felt_directions(encoder, lora, guard) if settings.null_space_guard else {}
        key = solved_for(lora) if settings.closed_form else None
        equations = LeastSquares(encoder, lora, key, scales, bases.get(key)) if key else None
        forget = self._forget_lessons(lora, asked, vectors, equations)
        if equations:
            with self.stage(LEAST_SQUARES):
                equations.keep(keep, settings.keep_weight)
                equations.solve()
        first = self.parts[0]
        training = Training(
            encoder, lora, forget, keep, guard, scales, settings, generator, bases,
            LivePreview(self.model, encoder, lora, first.concept, first.kept, settings.seed),
        )  # fmt: skip
        if settings.closed_form and settings.steps == 0:
            preview = training.preview() if self.monitor.shows_pictures else None
            self.monitor.report(Progress("forgetting", 1, 1, preview=preview))
        if settings.adversary == "pgd":
            adversaries = [
                Adversary(encoder, lora, plan.concept, plan.stand_in, generator, scales)
                for plan in self._plans
            ]
            training.find_adversary = lambda: [
                lesson for adversary in adversaries for lesson in adversary.find()
            ]
        if settings.needs_pictures:
            terms = [
                PictureLoss(
                    self.model, encoder, lora, self.latents(plan.concept),
                    plan.forget_prompts(PROMPTS), learned, settings, generator, self.memory.rows,
                )
                for plan, learned in zip(self._plans, vectors, strict=True)
            ]  # fmt: skip
            training.extra_loss = lambda step: terms[step % len(terms)](step)
        return training

    def _keep_lessons(self, lora: EncoderLora, prompts: Sequence[Prompts]) -> list[Lesson]:
        keep: list[Lesson] = []
        for number, kept in enumerate(prompts, start=1):
            keep += keep_lessons(self.encoder, lora, kept, self.monitor)
            self.monitor.report(Progress(PREPARING, number, 2 * len(prompts)))
        return keep

    def _forget_lessons(
        self,
        lora: EncoderLora,
        prompts: Sequence[ForgetPrompts],
        vectors: Sequence[Tensor | None],
        equations: LeastSquares | None,
    ) -> list[ForgetLesson]:
        """Those that the loop needs: without steps none, and one concept's are held at a time."""
        forget: list[ForgetLesson] = []
        for number, (asked, learned) in enumerate(zip(prompts, vectors, strict=True), start=1):
            with self.stage(PREPARING):
                lessons = forget_lessons(self.encoder, lora, asked, learned, self.monitor)
                done = len(prompts) + number
                self.monitor.report(Progress(PREPARING, done, 2 * len(prompts)))
            if equations:
                with self.stage(LEAST_SQUARES):
                    equations.forget(lessons)
            if self.settings.steps > 0:
                forget += lessons
            del lessons  # before the next ones are made
        return forget

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the user should read, about every concept."""
        notes = list(self._found.notes()) if self._found else []
        for part, doubt in zip(self.parts, self._doubts, strict=True):
            notes += [
                *filter(None, [doubt]),
                *part_notes(part, self.encoder, self._learned is not None),
            ]
        if self.settings.closed_form and not any(key.module == "fc2" for key in self.modules):
            notes.append("The closed form changes fc2, which these settings leave alone.")
        return tuple(notes)

    def _metadata(self) -> dict[str, str]:
        shared = {
            "unlearn_settings": json.dumps(self.settings.as_dict(), sort_keys=True),
            "unlearn_base_model_hash": self.encoder.fingerprint(),
            "unlearn_torch": torch.__version__,
        }
        said = [concept_metadata(part, self._pictures_used(part)) for part in self.parts]
        return (said[0] if len(said) == 1 else {PARTS: json.dumps(said)}) | shared

    def _pictures_used(self, part: Part) -> int:
        """How many pictures had a part in the result: in its name, its vectors or its loss."""
        used = self._found or part.learned or self.settings.needs_pictures
        return len(part.concept.images) if used else 0
