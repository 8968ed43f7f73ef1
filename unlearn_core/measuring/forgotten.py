"""What a LoRA is said to have forgotten."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..concept import Concept, Kind
from ..errors import BadConcept, BadFile
from ..forgetting.part import PARTS
from ..progress import SilentMonitor
from ..text.text_encoder import TextEncoder
from ..unlearn import UnlearnResult
from ..words.neighbours import KEPT_FIRST, look_around
from ..words.stand_in import choose_stand_in

_MOST_WORDS = 1000


@dataclass(frozen=True)
class Forgotten:
    """What a LoRA is said to have forgotten."""

    concept: Concept
    names: tuple[str, ...]
    stand_in: str
    kept: tuple[str, ...]

    @classmethod
    def from_result(cls, result: UnlearnResult) -> Forgotten:
        """As a run has it."""
        return cls(result.concept, result.names, result.stand_in.word, result.kept)

    @classmethod
    def by_nearness(cls, encoder: TextEncoder, concept: Concept, seed: int) -> Forgotten:
        """As a run would choose from the words alone; raises BadConcept."""
        around = look_around(encoder, concept)
        choice = choose_stand_in(encoder, concept, around, None, 0, seed, SilentMonitor())
        kept = around.nearest(KEPT_FIRST)
        return cls(concept, concept.names, choice.word, kept)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Forgotten:
        """As a LoRA file of this engine has it; raises BadFile if the file is another's."""
        try:
            if not all(isinstance(value, str) for value in metadata.values()):
                raise TypeError("not all of it is text")
            names, kept, synonyms = (
                _words(metadata[f"unlearn_{name}"]) for name in ("names", "kept", "synonyms")
            )
            kind: Kind = metadata["unlearn_kind"]  # type: ignore[assignment]
            stand_in = metadata["unlearn_stand_in"]
            for word in (*names, *kept, stand_in):
                Concept(word)  # raises BadConcept for what no prompt can say
            return cls(Concept(metadata["unlearn_concept"], synonyms, kind), names, stand_in, kept)
        except (KeyError, ValueError, TypeError, RecursionError, BadConcept) as error:
            raise BadFile(
                "The LoRA file does not say what it forgets; name the concept and its stand-in."
            ) from error


def all_from_metadata(metadata: Mapping[str, str]) -> tuple[Forgotten, ...]:
    """All that a LoRA file forgets: none if it does not say.

    What one of them kept and another one forgets is not kept. Raises BadFile if what it says can't
    be read.
    """
    if PARTS not in metadata:
        return (Forgotten.from_metadata(metadata),) if "unlearn_names" in metadata else ()
    try:
        parts = [Forgotten.from_metadata({**part}) for part in json.loads(metadata[PARTS])]
    except (ValueError, TypeError, RecursionError) as error:
        raise BadFile(
            "The LoRA file does not say in a way that can be read what it forgets."
        ) from error
    gone = {name.casefold() for part in parts for name in part.names}
    return tuple(
        dataclasses.replace(
            part, kept=tuple(word for word in part.kept if word.casefold() not in gone)
        )
        for part in parts
    )


def _words(text: str) -> tuple[str, ...]:
    """A JSON list of strings; raises ValueError, TypeError or RecursionError for anything else."""
    words = json.loads(text)
    if not isinstance(words, list) or len(words) > _MOST_WORDS:
        raise ValueError("no list of words")
    if not all(isinstance(word, str) for word in words):
        raise TypeError("not all of them are words")
    return tuple(words)
