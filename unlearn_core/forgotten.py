"""What a LoRA is said to have forgotten."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .concept import Concept, Kind
from .errors import BadFile
from .lent_model import SilentMonitor
from .part import PARTS
from .settings import UnlearnSettings
from .stand_in import choose_stand_in, look_around
from .text_encoder import TextEncoder
from .unlearn import UnlearnResult


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
        kept = around.nearest(UnlearnSettings().keep_nearest)
        return cls(concept, concept.names, choice.word, kept)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Forgotten:
        """As a LoRA file of this engine has it; raises BadFile if the file is another's."""
        try:
            names = tuple(json.loads(metadata["unlearn_names"]))
            kept = tuple(json.loads(metadata["unlearn_kept"]))
            kind: Kind = metadata["unlearn_kind"]  # type: ignore[assignment]
            synonyms = tuple(json.loads(metadata["unlearn_synonyms"]))
            concept = Concept(metadata["unlearn_concept"], synonyms, kind)
            return cls(concept, names, metadata["unlearn_stand_in"], kept)
        except (KeyError, ValueError, TypeError) as error:
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
    except (ValueError, TypeError) as error:
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


def merged_metadata(parts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The notes of a file merged from files with these notes: ours of each of them, in a list."""
    ours = [{k: v for k, v in part.items() if k.startswith("unlearn_")} for part in parts]
    made_for = {part["unlearn_base_model_hash"] for part in ours}
    ours = [{k: v for k, v in part.items() if k != "unlearn_base_model_hash"} for part in ours]
    return {PARTS: json.dumps(ours, sort_keys=True), "unlearn_base_model_hash": made_for.pop()}
