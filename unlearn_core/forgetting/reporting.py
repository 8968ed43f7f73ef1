"""What is said of a run afterwards: to its user, and in the LoRA's file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from ..lora.encoder_lora import EncoderLora
from ..lora.keys import ModuleKey
from ..lora.metadata import all_to_metadata
from ..settings import UnlearnSettings
from ..text.text_encoder import TextEncoder
from ..training.losses import RoleScales
from ..words.naming import FoundWords
from .building import Decision
from .held_out import measure_moved
from .part import Part, part_notes


def with_moved(part: Part, encoder: TextEncoder, lora: EncoderLora, scales: RoleScales) -> Part:
    """The part with how far its concept has moved under the trained LoRA."""
    kind, word = part.concept.kind, part.stand_in.word
    moved = measure_moved(encoder, lora, part.names, kind, word, scales)
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
    parts: Sequence[Part], settings: UnlearnSettings, encoder: TextEncoder, named_by_pictures: bool
) -> dict[str, str]:
    """What the LoRA's file says; `named_by_pictures`: the concept's name was found in them."""

    def pictures_used(part: Part) -> int:
        used = named_by_pictures or part.learned or settings.needs_pictures
        return len(part.concept.images) if used else 0

    return all_to_metadata(
        [part.forgotten for part in parts],
        [pictures_used(part) for part in parts],
        settings,
        encoder.fingerprint(),
    )
