"""What is drawn before and after: the concept, its other names, what is near it and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..concept import Kind
from ..lora.metadata import Forgotten
from ..text.text_encoder import TextEncoder
from ..text.word_tables import nouns, styles
from ..words.prompts import Name, Prompts, fill, make_prompts, whole_prompts

Role = Literal["concept", "synonym", "description", "neighbour", "stand-in", "unrelated"]
OWN_ROLES: tuple[Role, ...] = ("concept", "synonym", "description")
"""What should show the concept before, and not after."""
SHEET_COLUMNS = 4
PICTURES: dict[Role, int] = {"concept": 16, "synonym": 8}
"""Pictures of a prompt where drawing takes seconds; else, and of other roles, SHEET_COLUMNS."""
SYNONYMS, NEAR, UNRELATED = 3, 3, 3
"""Words of each role."""


@dataclass(frozen=True)
class Subject:
    """A word or a description, and the prompt that is drawn for it."""

    role: Role
    word: str
    prompt: Prompts
    """One."""
    asked: str
    """What a judge is asked about its pictures: the word itself, of OWN_ROLES the concept."""


def subjects_of(
    forgotten: Forgotten, encoder: TextEncoder, descriptions: Sequence[str]
) -> list[Subject]:
    """The concept first; unrelated words are spread evenly over the table of those it knows."""
    concept, near = forgotten.concept, forgotten.kept[:NEAR]
    words: list[tuple[Role, str]] = [("concept", concept.name)]
    words += [("synonym", word) for word in concept.synonyms[:SYNONYMS]]
    words += [("description", text) for text in descriptions]
    words += [("neighbour", word) for word in near]
    words += [("stand-in", forgotten.stand_in)] if forgotten.stand_in not in near else []
    table = styles() if concept.kind == "style" else nouns()
    taken = {*forgotten.names, *forgotten.kept, forgotten.stand_in}
    rest = [word for word in table if word not in taken and encoder.knows(word)]
    step = max(1, len(rest) // UNRELATED)
    words += [("unrelated", word) for word in rest[step // 2 :: step][:UNRELATED]]
    return [
        Subject(
            role,
            word,
            _prompt(role, word, concept.kind),
            concept.name if role in OWN_ROLES else word,
        )
        for role, word in words
    ]


def _prompt(role: Role, word: str, kind: Kind) -> Prompts:
    if role == "description":
        return whole_prompts([f"a photo of {word}"])
    template = "a picture of a house, {it} style" if kind == "style" else "a photo of {it}"
    return make_prompts([fill(template, Name.of(word, kind))])
