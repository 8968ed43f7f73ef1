"""Trains the LoRA of each text tower: one tower after the other, or all together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from statistics import fmean

import torch

from ..lora.encoder_lora import EncoderLora
from ..lora.keys import ModuleKey
from ..lora.weights import LoraPair
from ..models.lent_model import LentModel
from ..progress import (
    FORGETTING,
    LEAST_SQUARES,
    PREPARING,
    Progress,
    RunMonitor,
    StepCounter,
    StepReports,
)
from ..settings import UnlearnSettings
from ..text.text_encoder import TextEncoder
from ..training.examples import Examples, ForgetExamples, forget_examples
from ..training.least_squares import LeastSquares, solved_for
from ..training.losses import RoleScales
from ..training.preview import LivePreview
from ..training.stopping import HeldOut, StopWhenDone
from ..words.prompts import ForgetPrompts
from .building import TrainingSets, WrittenPrompts, build_sets, build_training, write_prompts
from .held_out import known_names, watched
from .part import Decision, with_moved


@dataclass
class TowerTraining:
    """Text alone is trained tower after tower, so that only one holds what training needs.

    What raises the denoising loss trains them together, for the UNet reads them together.
    """

    model: LentModel
    encoder: TextEncoder
    modules: Sequence[Sequence[ModuleKey]]
    """Those of each tower."""
    decisions: Sequence[Decision]
    settings: UnlearnSettings
    generator: torch.Generator
    monitor: RunMonitor
    unet_rows: int
    """Pictures that go through the UNet together with a gradient."""
    stage: Callable[[str], AbstractContextManager[None]]
    """Measures how long a stage takes."""
    loras: list[EncoderLora] = field(default_factory=list)
    """On the towers that were reached."""
    scales: list[RoleScales] = field(default_factory=list)
    """The same of the towers that are trained."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The towers carry LoRAs inside, and none after."""
        for tower, modules in zip(self.encoder.towers, self.modules, strict=True):
            tower.split_at(min(key.layer for key in modules))
        try:
            yield
        finally:
            for lora in self.loras:
                lora.detach()
            for tower in self.encoder.towers:
                tower.split_at(0)

    def run(self) -> list[float]:
        """Train all towers; the loss of every step, averaged over them."""
        settings, count = self.settings, len(self.encoder.towers)
        together = count if settings.objective == "ascent" else 1
        rounds = count // together
        self._attach(together)
        with self.stage(PREPARING):
            written = write_prompts([decision.plan for decision in self.decisions], settings)
        first = self.decisions[0].part
        preview = LivePreview(
            self.model, self.encoder, self.loras, first.concept, first.kept, settings.seed
        )
        counter = StepCounter(self.monitor, PREPARING, 2 * len(self.decisions) * count)
        reports = StepReports(self.monitor, FORGETTING, rounds * settings.steps)
        losses: list[list[float]] = []
        for start in range(0, count, together):
            self._attach(start + together)
            sets, forget = self._prepare(start, written, counter)
            training = build_training(
                self.model, self.encoder, self.decisions, sets, forget, settings, self.generator,
                preview, self.unet_rows,
            )  # fmt: skip
            if ends_when_done(settings):
                with self.stage(PREPARING):
                    training.stopping = self._stopping(sets)
            with self.stage(FORGETTING):
                losses.append(training.run(self.monitor, reports))
            self.scales += [part.scales for part in sets]
            del sets, forget, training  # before the next tower's are made
            for lora in self.loras[start:]:
                lora.rest()
        if settings.closed_form and settings.steps == 0:
            shown = preview() if self.monitor.shows_pictures else None
            self.monitor.report(Progress(FORGETTING, 1, 1, preview=shown))
        return [fmean(step) for step in _side_by_side(losses)]

    def with_moved(self) -> list[Decision]:
        """The decisions with how far their concepts have moved."""
        anywhere = self.settings.objective == "ascent"
        with self.stage(FORGETTING):
            parts = [
                with_moved(decision.part, self.encoder, self.loras, self.scales, anywhere)
                for decision in self.decisions
            ]
        return [
            dataclasses.replace(decision, part=part)
            for decision, part in zip(self.decisions, parts, strict=True)
        ]

    def export(self) -> dict[ModuleKey, LoraPair]:
        """A copy of all towers' LoRA weights."""
        return {key: pair for lora in self.loras for key, pair in lora.export().pairs.items()}

    def _attach(self, count: int) -> None:
        """Put a LoRA on each of the first `count` towers that has none yet."""
        for number in range(len(self.loras), count):
            tower, modules = self.encoder.towers[number], self.modules[number]
            self.loras.append(EncoderLora(tower, modules, self.settings.rank, self.generator))

    def _prepare(
        self, start: int, written: WrittenPrompts, counter: StepCounter
    ) -> tuple[list[TrainingSets], list[list[ForgetExamples]]]:
        """What the towers from `start` on are trained on, their least squares solved."""
        sets, forget = [], []
        for lora in self.loras[start:]:
            with self.stage(PREPARING):
                part = build_sets(lora, written, self.settings, counter, self.monitor)
            sets.append(part)
            forget.append(self._forget_set(part, written, counter))
        return sets, forget

    def _forget_set(
        self, sets: TrainingSets, written: WrittenPrompts, counter: StepCounter
    ) -> list[ForgetExamples]:
        """As the loop needs it; without steps one concept's examples are held at a time."""
        settings = self.settings
        keys = solved_for(sets.lora) if settings.closed_form else []
        forget: list[ForgetExamples] = []
        equations = self._equations(sets, keys[0]) if keys else None
        for number, prompts in enumerate(written.forget):
            parts = self._forget_examples(sets, number, prompts)
            counter.one_more()
            if equations:
                with self.stage(LEAST_SQUARES):
                    equations.forget(parts)
            if settings.steps > 0:
                forget += parts
            del parts  # before the next ones are made
        if equations:
            self._solve(equations, sets)
        for key in keys[1:]:
            equations = self._equations(sets, key)
            for number, prompts in enumerate(written.forget):
                parts = self._forget_examples(sets, number, prompts)
                with self.stage(LEAST_SQUARES):
                    equations.forget(parts)
            self._solve(equations, sets)
        return forget

    def _stopping(self, sets: Sequence[TrainingSets]) -> StopWhenDone:
        held_out = []
        for each in sets:
            forget: list[Examples] = []
            keep: list[Examples] = []
            for part in (decision.part for decision in self.decisions):
                names = known_names(self.encoder, part.names)
                kind, word = part.concept.kind, part.stand_in.word
                count = len(self.decisions)
                found = watched(each.lora, names, part.kept, kind, word, count, self.monitor)
                forget += found[0]
                keep += found[1]
            held_out.append(HeldOut(each.lora, each.scales, forget, keep))
        return StopWhenDone(held_out, self.settings.keep_weight)

    def _equations(self, sets: TrainingSets, key: ModuleKey) -> LeastSquares:
        return LeastSquares(sets.lora, key, sets.scales, sets.bases.get(key))

    def _solve(self, equations: LeastSquares, sets: TrainingSets) -> None:
        with self.stage(LEAST_SQUARES):
            equations.retain(sets.retain, self.settings.keep_weight)
            equations.solve()

    def _forget_examples(
        self, sets: TrainingSets, number: int, prompts: ForgetPrompts
    ) -> list[ForgetExamples]:
        """Of one concept, as a tower reads it."""
        tower = sets.lora.tower
        vectors = self.decisions[number].vectors(tower.device)
        if vectors is not None:
            vectors = self.encoder.split(vectors)[self.encoder.towers.index(tower)]
        with self.stage(PREPARING):
            return forget_examples(sets.lora, prompts, vectors, self.monitor)


def ends_when_done(settings: UnlearnSettings) -> bool:
    """Whether the loop ends with what it does to held-out prompts; an adversary finds new ones."""
    return settings.steps > 0 and settings.objective == "stand-in" and settings.adversary == "none"


def _side_by_side(losses: Sequence[Sequence[float]]) -> Iterator[list[float]]:
    """The towers' losses step by step; a tower that was done earlier has fewer."""
    for step in zip_longest(*losses):
        yield [loss for loss in step if loss is not None]
