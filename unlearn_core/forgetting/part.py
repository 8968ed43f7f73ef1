"""What a run decides for one concept, and what is said of it afterwards."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..concept import MEASURED_KINDS, Concept
from ..lora.metadata import Forgotten
from ..text.text_encoder import TextEncoder
from ..text.word_tables import find_noun, holds
from ..training.inversion import LearnedVectors
from ..words.stand_in import StandIn
from .held_out import Moved


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
    moved: Moved | None = dataclasses.field(default=None, kw_only=True)
    """How far the concept moved in held-out prompts; None before the training."""

    @property
    def forgotten(self) -> Forgotten:
        """As the LoRA file will say it."""
        return Forgotten(self.concept, self.names, self.stand_in.word, self.kept)

    def check_moved(self) -> None:
        """Raise TrainingFailed if the concept is where it was: nothing should be written then."""
        assert self.moved is not None
        self.moved.check(self.concept, self.stand_in.word)


def part_notes(part: Part, encoder: TextEncoder, vectors_given: bool) -> Iterator[str]:
    """Sentences that the user should read; `vectors_given` are those learned before the run."""
    concept, learned, stand_in = part.concept, part.learned, part.stand_in
    if not encoder.knows(concept.name):
        yield (
            f"The model has no word vector for {concept.name!r}: by this name it draws "
            "nothing in particular."
        )
    if concept.kind not in MEASURED_KINDS:
        yield f"Results for the kind {concept.kind!r} are not measured."
    if learned is None:
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
        yield f"Whether {stand_in.word!r} draws the concept was not tested (it takes the UNet)."
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
