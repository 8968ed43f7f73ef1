"""What a LoRA file says of itself: which concepts it forgets, how and for which model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..concept import Concept, Kind
from ..errors import BadConcept, BadFile
from ..settings import UnlearnSettings
from .weights import LoraWeights

PARTS = "unlearn_parts"
"""The note of a file that forgets several concepts: a list of what is noted of each."""
BASE_MODEL = "unlearn_base_model_hash"
"""The note that holds `TextEncoder.fingerprint` of the model that the LoRA was made for."""
_WORDS = ("unlearn_concept", "unlearn_stand_in")
_LISTS = ("unlearn_synonyms", "unlearn_names", "unlearn_kept")
_MOST_WORDS = 1000
_HASH_DIGITS = 16


@dataclass(frozen=True)
class Forgotten:
    """What a LoRA is said to have forgotten."""

    concept: Concept
    names: tuple[str, ...]
    stand_in: str
    kept: tuple[str, ...]

    def to_metadata(self, pictures: int) -> dict[str, str]:
        """The notes on this concept; `pictures` is how many were used."""
        return {
            "unlearn_concept": self.concept.name,
            "unlearn_synonyms": json.dumps(self.concept.synonyms),
            "unlearn_names": json.dumps(self.names),
            "unlearn_kind": self.concept.kind,
            "unlearn_stand_in": self.stand_in,
            "unlearn_kept": json.dumps(self.kept),
            "unlearn_pictures": str(pictures),
        }

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


def all_to_metadata(
    forgotten: Sequence[Forgotten],
    pictures: Sequence[int],
    settings: UnlearnSettings,
    base_model: str,
) -> dict[str, str]:
    """All notes of a LoRA; `pictures` are how many were used of each concept."""
    parts = [part.to_metadata(count) for part, count in zip(forgotten, pictures, strict=True)]
    return {
        **(parts[0] if len(parts) == 1 else {PARTS: json.dumps(parts)}),
        "unlearn_settings": json.dumps(settings.as_dict(), sort_keys=True),
        BASE_MODEL: base_model,
        "unlearn_torch": torch.__version__,
    }


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


def hide_words(lora: LoraWeights) -> LoraWeights:
    """The same LoRA with a hash in the place of each word of its metadata.

    The base model's hash goes into it, so that the hashes of two models differ. Whoever guesses a
    word can still check the guess, as with the LoRA itself.
    """
    salt = lora.metadata.get(BASE_MODEL, "")
    metadata = _hidden(lora.metadata, salt)
    if PARTS in metadata:
        parts = [_hidden(part, salt) for part in json.loads(metadata[PARTS])]
        metadata[PARTS] = json.dumps(parts)
    return dataclasses.replace(
        lora, pairs=dict(lora.pairs), metadata={**metadata, "unlearn_private": "True"}
    )


def _hidden(metadata: Mapping[str, str], salt: str) -> dict[str, str]:
    hidden = dict(metadata)
    for name in _WORDS:
        if name in hidden:
            hidden[name] = _hash(hidden[name], salt)
    for name in _LISTS:
        if name in hidden:
            hidden[name] = json.dumps([_hash(word, salt) for word in json.loads(hidden[name])])
    return hidden


def _hash(word: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}\n{word.casefold()}".encode()).hexdigest()[:_HASH_DIGITS]


def _words(text: str) -> tuple[str, ...]:
    """A JSON list of strings; raises ValueError, TypeError or RecursionError for anything else."""
    words = json.loads(text)
    if not isinstance(words, list) or len(words) > _MOST_WORDS:
        raise ValueError("no list of words")
    if not all(isinstance(word, str) for word in words):
        raise TypeError("not all of them are words")
    return tuple(words)
