"""One run on one or more concepts, stage by stage: decide, build, solve, report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import torch
from torch import Tensor

from ..concept import Concept, Nameless
from ..errors import BadConcept, BadSettings
from ..lora.encoder_lora import chosen_modules
from ..lora.weights import LoraWeights, complete, round_to_half
from ..models.devices import give_memory_back
from ..models.lent_model import LentModel, Stoppable, build_encoder
from ..models.sampling import encode_pictures
from ..progress import (
    CHOOSING_THE_STAND_IN,
    CHOOSING_WORDS,
    COPYING_THE_ENCODER,
    FINDING_THE_WORD,
    LEARNING,
    READING_PICTURES,
    Progress,
    RunMonitor,
    stop_if_asked,
)
from ..settings import UnlearnSettings, presets_where
from ..text.text_encoder import Fingerprint
from ..text.word_tables import find_noun
from ..training.inversion import LearnedVectors, invert
from ..words.naming import SURE, FoundWords, doubt_of, name_concept, read_name
from ..words.neighbours import (
    KnownWords,
    Neighbourhood,
    keeping_parts,
    kinds_to_forget,
    known_kinds,
    known_words,
    look_around,
)
from ..words.prompt_templates import COLORS
from ..words.stand_in import choose_stand_in, pictures_to_draw
from .memory_estimate import Workload
from .memory_plan import MemoryMeter, MemoryReport, plan_memory, text_sizes
from .part import Decision, Part, metadata, notes
from .prompt_plan import plan_prompts
from .tower_training import TowerTraining


class UnlearnRun:
    """One run on one or more concepts, stage by stage."""

    def __init__(
        self,
        model: LentModel,
        asked: Sequence[Concept | Nameless],
        settings: UnlearnSettings,
        monitor: RunMonitor,
        learned: LearnedVectors | None = None,
        measures: bool = False,
        wants_vectors: bool = False,
    ) -> None:
        """`learned` are of a single concept; `measures`: the result is drawn or measured after.

        `wants_vectors`: they are learned even where the name explains the pictures.

        Nothing is copied onto the device before the memory is planned.
        """
        _check(asked, settings)
        self.meter = MemoryMeter(model)
        self.settings, self.monitor = settings, monitor
        self.decisions: list[Decision] = []
        self.found: FoundWords | None = None
        self.seconds: dict[str, float] = {}
        self._asked, self._learned, self._wants_vectors = tuple(asked), learned, wants_vectors
        weights = model.text_encoder_weights()
        sizes = text_sizes(model, weights)
        self.modules = [chosen_modules(settings, *size.chosen_from) for size in sizes]
        pictures = sum(len(concept.images) for concept in asked)
        work = Workload(
            settings,
            pictures=0 if learned and not settings.needs_pictures else pictures,
            concepts=len(asked),
            previews=monitor.shows_pictures,
            finds_name=any(isinstance(concept, Nameless) for concept in asked),
            measures=measures,
        )
        self.memory = plan_memory(model, sizes, work, self.meter.free)
        self.model, self.lent = model, Stoppable(model, monitor, self.memory.drawn)
        with self.stage(COPYING_THE_ENCODER):
            self.encoder = build_encoder(model, weights)
        self._fingerprint = Fingerprint(self.encoder.weights())
        self.generator = torch.Generator().manual_seed(settings.seed)

    def go(self) -> tuple[LoraWeights, tuple[float, ...]]:
        """Run all stages: the LoRA and the losses; raises as `unlearn` does."""
        with closing(self._fingerprint), self.memory.followed(self.model):
            named = [self._named(concept) for concept in self._asked]
            _check_colors(named)
            concepts = [keeping_parts(self.encoder, concept, named) for concept in named]
            kinds = [known_kinds(self.encoder, concept) for concept in concepts]
            gone = [kinds_to_forget(*pair) for pair in zip(concepts, kinds, strict=True)]
            known = known_words(self.encoder, concepts, *gone)
            for concept, own in zip(concepts, kinds, strict=True):
                self.decisions.append(self._decide(concept, own, known))
            weights, losses = self._forget()
            fingerprint = self._fingerprint.result()
        was_found = self.found is not None
        said = metadata(self.parts, self.settings, fingerprint, named_by_pictures=was_found)
        return dataclasses.replace(weights, metadata=said), tuple(losses)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What was decided for each concept, and how far it has moved."""
        return tuple(concept.part for concept in self.decisions)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that the user should read, about every concept."""
        given = self._learned is not None
        settings, modules = self.settings, [key for keys in self.modules for key in keys]
        return tuple(notes(self.decisions, settings, modules, self.encoder, self.found, given))

    @property
    def memory_report(self) -> MemoryReport:
        """What was estimated beside what was used."""
        return self.meter.report(self.memory)

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Tells of a stage, measures how long it takes, gives back what it no longer needs."""
        self.monitor.report(Progress(stage))
        started = time.monotonic()
        yield
        give_memory_back()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - started

    def _named(self, concept: Concept | Nameless) -> Concept:
        if isinstance(concept, Concept):
            return concept
        with self.stage(FINDING_THE_WORD):
            named, self.found = name_concept(
                self.lent, self.encoder, concept, self.settings.seed, self.monitor
            )
        return named

    def _decide(self, concept: Concept, kinds: tuple[str, ...], known: KnownWords) -> Decision:
        settings, encoder = self.settings, self.encoder
        with self.stage(CHOOSING_WORDS):
            stop_if_asked(self.monitor)
            around = look_around(encoder, concept, known)
        with self.stage(CHOOSING_THE_STAND_IN):
            pictures = pictures_to_draw(settings, self.lent)
            stand_in = choose_stand_in(
                encoder, concept, around, self.lent, pictures, settings.seed, self.monitor
            )
        latents, sureness = None, None
        learned = self._learned if settings.use_pictures else None
        learns = settings.learns_vectors and learned is None and bool(concept.images)
        if learns or settings.needs_pictures:
            with self.stage(READING_PICTURES):
                latents = encode_pictures(self.lent, concept.images)
                sureness = self._read_name(concept, latents) if learns else None
        # With an adversary vectors help even so: an attack by learned ones takes longer.
        always = self._wants_vectors or settings.adversary != "none"
        explained = not always and sureness is not None and sureness >= SURE
        if learns and latents is not None and not explained:
            learned = self._learn(concept, around, latents)
        gone = kinds_to_forget(concept, kinds)
        plan = plan_prompts(
            encoder, concept, gone, settings, around, stand_in, learned, self.generator
        )
        names = tuple(name.text for name in plan.names if not name.is_learned)
        part = Part(concept, stand_in, plan.kept, names, learned, explained, kinds)
        doubt = doubt_of(concept) if sureness is not None and sureness <= 0 else None
        return Decision(part, plan, latents, doubt)

    def _read_name(self, concept: Concept, latents: Tensor) -> float | None:
        """As `read_name`; a name that was found in the pictures explains them."""
        if self.found is not None:
            return SURE
        return read_name(self.lent, self.encoder, concept, latents, self.settings.seed)

    def _learn(self, concept: Concept, around: Neighbourhood, latents: Tensor) -> LearnedVectors:
        settings = self.settings
        styles = around.known_styles[: settings.caption_styles]
        with self.stage(LEARNING):
            return invert(
                self.lent, self.encoder, concept, settings, styles, self.monitor, latents,
                self.memory.rows,
            )  # fmt: skip

    def _forget(self) -> tuple[LoraWeights, list[float]]:
        training = TowerTraining(
            self.lent, self.encoder, self.modules, self.decisions, self.settings, self.generator,
            self.monitor, self.memory.rows, self.stage,
        )  # fmt: skip
        with training.attached():
            losses = training.run()
            self.decisions = training.with_moved()
            whole = LoraWeights(training.export(), family=self.model.family)
            return round_to_half(complete(whole)), losses


def _check_colors(concepts: Sequence[Concept]) -> None:
    """Raise BadConcept for a colour or a background, which stands beside all other things."""
    names = [name for one in concepts if one.kind != "style" for name in one.names]
    for name in names:
        word = name.casefold().split()[-1]
        if word == "background" or (name.casefold() in COLORS and not find_noun(name)):
            raise BadConcept(
                f"{name!r} is a colour or a background: prompts of every other thing hold it, so "
                "it can't be forgotten by itself. Name the thing, such as 'red apple'."
            )


def _check(concepts: Sequence[Concept | Nameless], settings: UnlearnSettings) -> None:
    if settings.forget_weight == 0:
        raise BadSettings("Nothing would be forgotten: forget_weight is 0.")
    if settings.needs_pictures and not all(concept.images for concept in concepts):
        without = presets_where(needs_pictures=False)
        raise BadConcept(
            "These settings raise the denoising loss of pictures, so they need pictures of the "
            f"concept; give 4 or 5, or choose the preset {without}."
        )
