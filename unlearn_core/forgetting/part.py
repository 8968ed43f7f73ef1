"""What a run decides for one concept, and what is said of it afterwards."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concept import LITTLE_MEASURED, Concept
from ..lora.encoder_lora import EncoderLora
from ..lora.keys import ModuleKey
from ..lora.metadata import Forgotten, all_to_metadata
from ..settings import UnlearnSettings
from ..text.text_encoder import TextEncoder
from ..text.word_tables import find_noun, holds
from ..training.inversion import LearnedVectors
from ..training.losses import RoleScales
from ..words.naming import FoundWords
from ..words.neighbours import in_words
from ..words.stand_in import StandIn
from .held_out import Moved, measure_moved
from .prompt_plan import PromptPlan


@dataclass(frozen=True)
class Part:
    """What was decided for a concept."""

    concept: Concept
    stand_in: StandIn
    kept: tuple[str, ...]
    """Words that were kept first: the user's, then the nearest."""
    names: tuple[str, ...]
    """Everything that was forgotten as a word: name, synonyms, plural, misspellings."""
    learned: LearnedVectors | None
    """Word vectors from the pictures; None when there are none or they are not used."""
    name_explains: bool = False
    """Whether none were learned because the model finds the name itself in the pictures."""
    kinds: tuple[str, ...] = ()
    """Kinds of it that the model knows; `concept.covers` says whether they were forgotten too."""
    moved: Moved | None = dataclasses.field(default=None, kw_only=True)
    """How far the concept moved in held-out prompts; None before the training."""

    @property
    def forgotten(self) -> Forgotten:
        """As the LoRA file will say it."""
        return Forgotten(self.concept, self.names, self.stand_in.word, self.kept)

    @property
    def moved_doubt(self) -> str | None:
        """See `Moved.doubt`."""
        return self.moved.doubt(self.concept, self.stand_in.word) if self.moved else None

    def check_moved(self) -> None:
        """Raise TrainingFailed if the concept is where it was: nothing should be written then."""
        assert self.moved is not None
        self.moved.check(self.concept, self.stand_in.word)


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


def with_moved(
    part: Part,
    encoder: TextEncoder,
    loras: Sequence[EncoderLora],
    scales: Sequence[RoleScales],
    anywhere: bool,
) -> Part:
    """The part with how far its concept has moved under the trained LoRA of each tower."""
    kind, word = part.concept.kind, part.stand_in.word
    moved = measure_moved(encoder, loras, part.names, kind, word, scales, anywhere)
    return dataclasses.replace(part, moved=moved)


def notes(
    concepts: Sequence[Decision],
    settings: UnlearnSettings,
    modules: Sequence[ModuleKey],
    encoder: TextEncoder,
    found: FoundWords | None,
    vectors_given: bool,
) -> Iterator[str]:
    """Sentences that the user should read, about every concept."""
    if found is not None:
        yield from found.notes()
    for concept in concepts:
        if concept.doubt is not None:
            yield concept.doubt
        yield from part_notes(concept.part, encoder, vectors_given)
    if settings.closed_form and not any(key.module == "fc2" for key in modules):
        yield "The closed form changes fc2, which these settings leave alone."


def metadata(
    parts: Sequence[Part], settings: UnlearnSettings, fingerprint: str, named_by_pictures: bool
) -> dict[str, str]:
    """What the LoRA's file says; `named_by_pictures`: the concept's name was found in them."""

    def pictures_used(part: Part) -> int:
        used = named_by_pictures or part.learned or part.name_explains or settings.needs_pictures
        return len(part.concept.images) if used else 0

    return all_to_metadata(
        [part.forgotten for part in parts],
        [pictures_used(part) for part in parts],
        settings,
        fingerprint,
    )


def part_notes(part: Part, encoder: TextEncoder, vectors_given: bool) -> Iterator[str]:
    """Sentences that the user should read; `vectors_given` are those learned before the run."""
    concept, learned, stand_in = part.concept, part.learned, part.stand_in
    if part.moved_doubt is not None:
        yield part.moved_doubt
    if not encoder.knows(concept.name):
        yield (
            f"The model has no word vector for {concept.name!r}: by this name it draws "
            "nothing in particular."
        )
    if concept.kind in LITTLE_MEASURED:
        yield (
            f"Results for the kind {concept.kind!r} were measured on "
            f"{LITTLE_MEASURED[concept.kind]}."
        )
    if part.kinds and concept.covers == "word":
        yield (
            f"Only the word {concept.name!r} was forgotten. Kinds of it stay as they are: "
            f"{in_words(part.kinds)}. To forget them too, choose that it covers its kinds."
        )
    if part.name_explains:
        yield "No vectors were learned: the model finds the name itself in the pictures."
    elif learned is None:
        left_out = concept.images or vectors_given
        why = "these settings leave them out" if left_out else "no pictures"
        yield f"Learned vectors not used: {why}."
    elif not learned.accepted:
        yield (
            "The vectors learned from the pictures do not draw the concept in other styles "
            f"({learned.explained:.0%} of what its name does), so they are not used."
        )
    if any(holds(stand_in.word, name) for name in concept.names):
        yield (
            f"The stand-in {stand_in.word!r} holds a name of the concept, so the concept may "
            "still be drawn: name another one."
        )
    if _joins_nouns(concept.name):
        yield (
            f"{concept.name!r} is forgotten as one name. To forget several things, write "
            "commas between them."
        )
    if stand_in.drawn == 0:
        yield (
            f"Whether {stand_in.word!r} draws the concept was not tested: that takes the UNet, "
            "and minutes on a CPU."
        )
    elif stand_in.drawn_as_concept:
        yield (
            f"{stand_in.word!r} itself looks like the concept in {stand_in.drawn_as_concept} "
            f"of {stand_in.drawn} pictures; name another stand-in if you can."
        )


def _joins_nouns(name: str) -> bool:
    """Whether signs join several nouns: "dog/cat", "dog & cat"; not "ice-cream cone"."""
    words = re.split(r"[\W_]+", name)
    joined = re.search(r"[^\w\s]|_", name) and not find_noun(name)
    return bool(joined) and sum(find_noun(word) is not None for word in words) > 1
