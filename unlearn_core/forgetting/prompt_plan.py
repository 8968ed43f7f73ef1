"""Which words a run forgets, which it keeps, and the prompts made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..concept import Concept
from ..settings import UnlearnSettings
from ..text.text_encoder import TextEncoder
from ..text.word_tables import find_noun, holds, same_thing, singular_of
from ..training.inversion import LearnedVectors
from ..words.neighbours import KEPT_FIRST, Neighbourhood
from ..words.prompt_templates import COLORS, FILLERS
from ..words.prompt_writer import PromptWriter, Surroundings, spellings
from ..words.prompts import ForgetPrompts, Name, Prompts
from ..words.stand_in import StandIn

FEWEST_FORGET, FEWEST_KEEP = 128, 64
"""Prompts of each concept when several share a run."""


@dataclass(frozen=True)
class PromptPlan:
    """The words of one run."""

    concept: Concept
    names: tuple[Name, ...]
    """Everything forgotten as a name: name, synonyms, plural, misspellings, learned vectors, and
    last the kinds."""
    stand_in: Name
    kept: tuple[str, ...]
    """Words that are kept first: the user's, then the nearest."""
    others: tuple[str, ...]
    """Further words that are kept."""
    writer: PromptWriter
    kinds: int = 0
    """How many of the names are kinds of the concept."""

    def forget_prompts(self, count: int) -> ForgetPrompts:
        """`count` prompts with the concept: names take turns, one of its own for two kinds."""
        own = self.names[: len(self.names) - self.kinds]
        turns = list(own) if not self.kinds else []
        for number, kind in enumerate(self.names[len(own) :]):
            turns += [] if number % 2 else [own[number // 2 % len(own)]]
            turns.append(kind)
        return self.writer.forget(turns, self.stand_in, count)

    def retain_prompts(self, count: int) -> Prompts:
        """`count` prompts, every second one about a word that is kept first."""
        near = self.kept or (self.stand_in.text,)
        far = self.others or near
        order = torch.randperm(len(far), generator=self.writer.generator).tolist()
        words = [
            near[i // 2 % len(near)] if i % 2 else far[order[i // 2 % len(far)]]
            for i in range(count)
        ]
        return self.writer.keep([Name.of(word, self.concept.kind) for word in words], count)


def prompts_each(settings: UnlearnSettings, concepts: int) -> tuple[int, int]:
    """Prompts to forget and to keep for each of several concepts: their share, but FEWEST."""

    def share(total: int, fewest: int) -> int:
        return max(total // concepts, min(total, fewest))

    return (
        share(settings.forget_prompts, FEWEST_FORGET),
        share(settings.keep_prompts, FEWEST_KEEP),
    )


def plan_prompts(
    encoder: TextEncoder,
    concept: Concept,
    kinds: Sequence[str],
    settings: UnlearnSettings,
    around: Neighbourhood,
    stand_in: StandIn,
    learned: LearnedVectors | None,
    generator: torch.Generator,
) -> PromptPlan:
    """Choose the words; learned vectors are a name only when they were accepted.

    `kinds` of the concept are forgotten under their own names too, but in no other spelling.
    """
    names = [Name.of(word, concept.kind) for word in concept.names]
    varied = settings.objective != "ascent"
    if varied and concept.kind != "style":
        names += [Name.of(word, concept.kind) for word in _variants(encoder, concept)]
    if learned is not None and learned.accepted:
        names.append(learned.name(concept))
    names += [Name.of(kind, concept.kind) for kind in kinds]
    kept = tuple(dict.fromkeys((*concept.keep, *around.nearest(KEPT_FIRST))))
    pool = around.known_styles if concept.kind == "style" else around.known_nouns
    surroundings = Surroundings(
        around.known_nouns,
        around.known_styles,
        tuple(c for c in COLORS if c not in kinds and not mentions(c, concept)),
        tuple(f for f in FILLERS if encoder.knows(f) and not mentions(f, concept)),
    )
    return PromptPlan(
        concept,
        tuple(names),
        Name.of(stand_in.word, concept.kind),
        kept,
        tuple(word for word in pool if word not in kept),
        PromptWriter(concept.kind, surroundings, generator, varied),
        len(kinds),
    )


def mentions(text: str, concept: Concept) -> bool:
    """Whether a text holds a name of the concept as whole words."""
    return any(holds(text, name) for name in concept.names)


def _variants(encoder: TextEncoder, concept: Concept) -> list[str]:
    """Other numbers and misspellings that the model knows and that are no other word."""
    taken = {word.casefold() for word in (*concept.names, *concept.keep)}
    found: list[str] = []
    for word in concept.names:
        for variant in (*filter(None, [singular_of(word)]), *spellings(word)):
            is_other = find_noun(variant) is not None and not same_thing(variant, word)
            if not is_other and variant.casefold() not in (*taken, *found):
                found.append(variant)
    return [word for word in found if encoder.knows(word)]
