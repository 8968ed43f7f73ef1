"""The public calls: a concept in, or several, and a LoRA that forgets out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..concept import Concept, Nameless
from ..errors import BadConcept
from ..lora.metadata import Forgotten
from ..lora.peft_package import require_peft
from ..lora.weights import LoraWeights
from ..models.lent_model import LentModel, Stoppable, build_encoder
from ..progress import COPYING_THE_ENCODER, LEARNING, Progress, RunMonitor, SilentMonitor
from ..settings import UnlearnSettings, bounds_of
from ..text.text_encoder import TextEncoder
from ..text.word_tables import same_thing
from ..training.inversion import LearnedVectors, invert
from ..words.naming import FoundWords, name_concept
from ..words.neighbours import MOST_KINDS, kinds_of, look_around
from ..words.stand_in import StandIn
from .memory_estimate import Workload
from .memory_plan import MemoryPlan, MemoryReport, plan_memory, text_sizes
from .part import Part
from .run import UnlearnRun


@dataclass(frozen=True)
class UnlearnResult:
    """What a run gives back, on one concept or on several."""

    parts: tuple[Part, ...]
    """What was decided for each concept, in their order."""
    lora: LoraWeights
    """One for all of them, as its file holds it: float16, q, k, v and out complete, metadata."""
    settings: UnlearnSettings
    """As they were used: the rank is that of the LoRA."""
    losses: tuple[float, ...]
    notes: tuple[str, ...]
    """Sentences that the user should read."""
    seconds: dict[str, float]
    """Stage to seconds."""
    memory: MemoryReport
    found: FoundWords | None = None
    """The model's words for the pictures; None where the user gave a name."""

    def check_moved(self) -> None:
        """As `Part.check_moved`, for each concept."""
        for part in self.parts:
            part.check_moved()

    @property
    def part(self) -> Part:
        """The one of a run on a single concept; the properties below are its own."""
        (part,) = self.parts
        return part

    @property
    def concept(self) -> Concept:
        """See Part."""
        return self.part.concept

    @property
    def stand_in(self) -> StandIn:
        """See Part."""
        return self.part.stand_in

    @property
    def kept(self) -> tuple[str, ...]:
        """See Part."""
        return self.part.kept

    @property
    def names(self) -> tuple[str, ...]:
        """See Part."""
        return self.part.names

    @property
    def forgotten(self) -> Forgotten:
        """See Part."""
        return self.part.forgotten

    @property
    def learned(self) -> LearnedVectors | None:
        """See Part."""
        return self.part.learned


def unlearn(
    model: LentModel,
    concept: Concept | Nameless,
    settings: UnlearnSettings | None = None,
    monitor: RunMonitor | None = None,
    learned: LearnedVectors | None = None,
    measures: bool = False,
    wants_vectors: bool = False,
) -> UnlearnResult:
    """Train a text-encoder LoRA with which `model` no longer draws the concept.

    A nameless concept is forgotten under the model's own word for its pictures; one that covers
    its kinds gets a higher rank. `learned` are vectors that `learn_vectors` gave before; without
    them they are learned from the concept's pictures, if the settings use these and the model does
    not find the name in them, or if the caller `wants_vectors`. `measures` says that the result is
    drawn or measured afterwards, so that memory is planned for that too. The lent model is only
    read. Raises BadSettings, BadConcept, WrongModel, NotEnoughMemory, MissingPackage,
    TrainingFailed or Cancelled.
    """
    require_peft()
    settings, monitor = settings or UnlearnSettings(), monitor or SilentMonitor()
    settings = joint_settings(settings, things_in(concept))
    return _result(
        UnlearnRun(model, (concept,), settings, monitor, learned, measures, wants_vectors)
    )


def _result(run: UnlearnRun) -> UnlearnResult:
    lora, losses = run.go()
    return UnlearnResult(
        run.parts, lora, run.settings, losses, run.notes, run.seconds, run.memory_report, run.found
    )


def find_name(
    model: LentModel, nameless: Nameless, seed: int, monitor: RunMonitor
) -> tuple[Concept, FoundWords]:
    """The concept under the model's own word for its pictures; raises as `find_words`."""
    work = Workload(UnlearnSettings(), finds_name=True, forgets=False)
    encoder, lent, plan = _prepared(model, work, monitor)
    with plan.followed(model):
        return name_concept(lent, encoder, nameless, seed, monitor)


def unlearn_together(
    model: LentModel,
    concepts: Sequence[Concept],
    settings: UnlearnSettings | None = None,
    monitor: RunMonitor | None = None,
) -> UnlearnResult:
    """Train one text-encoder LoRA with which `model` draws none of the concepts.

    No concept's stand-in or kept word is another one of them. The encoder is copied once, what is
    kept is shared, and the prompts of `settings` are divided among the concepts; the LoRA's rank
    is `settings.rank` for each of them, up to the greatest that a LoRA may have. Raises as
    `unlearn` does, and BadConcept for two concepts that are one, or that need each other to stay.
    """
    require_peft()
    settings, monitor = settings or UnlearnSettings(), monitor or SilentMonitor()
    _check_apart(concepts)
    settings = joint_settings(settings, sum(map(things_in, concepts)))
    return _result(UnlearnRun(model, concepts, settings, monitor))


def joint_settings(settings: UnlearnSettings, things: int) -> UnlearnSettings:
    """The settings for so many things in one run: the rank grows with them."""
    if things == 1:
        return settings
    most = int(bounds_of("rank")[1])
    return settings.replace(rank=min(most, settings.rank * things))


def things_in(concept: Concept | Nameless) -> int:
    """How many things a concept is: one, and those of its kinds that may go with it."""
    if isinstance(concept, Nameless) or concept.covers == "word":
        return 1
    return 1 + min(MOST_KINDS, sum(len(kinds_of(name)) for name in concept.names))


def _check_apart(concepts: Sequence[Concept]) -> None:
    if not concepts:
        raise BadConcept("There is no concept to forget: give at least one.")
    for number, concept in enumerate(concepts):
        for other in (*concepts[:number], *concepts[number + 1 :]):
            for name in other.names:
                if same_thing(name, concept.name):
                    also = "" if name == other.name else f" (also called {name!r})"
                    raise BadConcept(
                        f"{concept.name!r} and {other.name!r}{also} are the same thing: give one "
                        "of them, the other as a synonym."
                    )
                for word in (*concept.keep, *filter(None, [concept.stand_in])):
                    if same_thing(name, word):
                        raise BadConcept(
                            f"{word!r} can't be kept or stand in for {concept.name!r}, because "
                            f"{other.name!r} is forgotten in the same run."
                        )


def learn_vectors(
    model: LentModel, concept: Concept, settings: UnlearnSettings, monitor: RunMonitor
) -> LearnedVectors:
    """The first step alone: word vectors from the concept's pictures, see `invert`."""
    work = Workload(settings, len(concept.images), previews=monitor.shows_pictures, forgets=False)
    encoder, lent, plan = _prepared(model, work, monitor)
    monitor.report(Progress(LEARNING))
    styles = look_around(encoder, concept).known_styles[: settings.caption_styles]
    with plan.followed(model):
        return invert(lent, encoder, concept, settings, styles, monitor, unet_rows=plan.rows)


def _prepared(
    model: LentModel, work: Workload, monitor: RunMonitor
) -> tuple[TextEncoder, Stoppable, MemoryPlan]:
    monitor.report(Progress(COPYING_THE_ENCODER))
    weights = model.text_encoder_weights()
    plan = plan_memory(model, text_sizes(model, weights), work, model.free_memory())
    return build_encoder(model, weights), Stoppable(model, monitor, plan.drawn), plan
