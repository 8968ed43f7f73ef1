"""Which words lie near a concept or under it, and which of them the model knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from ..concept import Concept
from ..errors import BadConcept
from ..text.text_encoder import TextEncoder
from ..text.token_trees import encode_all
from ..text.tower_encoder import TowerEncoder
from ..text.word_tables import (
    Noun,
    find_noun,
    find_style,
    is_hypernym,
    noun_of_head,
    nouns,
    same_thing,
    same_words,
    styles,
)
from .prompt_writer import plain_template
from .prompts import Name, fill, make_prompts

POOL = 200
"""Words that are ranked by their states; more are sifted by their word vectors first."""
KEPT_FIRST = 12
"""Words near the concept that a run keeps first."""
HUBNESS_SHARE = 0.25
"""How much being near to all candidates counts beside being near to the concept."""
SAME = 0.9
"""Cosine above which a word is the concept itself to this model: neither kept nor a stand-in.

On the demo model synonyms have 0.99 and more, other words at most 0.21 (42 objects, none of the
bench's test concepts)."""
MOST_KINDS = 64
"""That are forgotten with a word in one run: they share its prompts."""
SHOWN = 6
"""Kinds that a sentence lists."""


@dataclass(frozen=True)
class Neighbourhood:
    """The words around a concept, nearest first, and all words that may surround it."""

    ranked: tuple[tuple[str, float], ...]
    """(word, cosine at EOS), siblings first, without the concept's own and more general names."""
    known_nouns: tuple[str, ...]
    known_styles: tuple[str, ...]

    def nearest(self, count: int) -> tuple[str, ...]:
        """The `count` nearest words."""
        return tuple(word for word, _ in self.ranked[:count])


@dataclass(frozen=True)
class KnownWords:
    """The words that a model knows and that name nothing of what is forgotten."""

    nouns: tuple[str, ...]
    styles: tuple[str, ...]


def known_words(encoder: TextEncoder, gone: Sequence[Concept], *kinds: Sequence[str]) -> KnownWords:
    """Of the tables, beside all concepts that are forgotten in one run, and the `kinds` of each."""
    others = {kind for of_concept in kinds for kind in of_concept}
    named = [
        tuple(w for w in table if encoder.knows(w) and w not in others and not _is_named(w, gone))
        for table in (nouns(), styles())
    ]
    return KnownWords(*named)


@cache
def kinds_of(word: str) -> tuple[str, ...]:
    """Nouns of the table that name a kind of what a word names: of "cat" "tabby", not "kitten".

    In alphabetical order. Synonyms and close hyponyms belong to the word itself, see `Noun`.
    """
    return tuple(noun for noun in nouns() if is_hypernym(word, noun))


def known_kinds(encoder: TextEncoder, concept: Concept) -> tuple[str, ...]:
    """Kinds of the concept that the model knows and that shall not stay; a style has none."""
    if concept.kind == "style":
        return ()
    spared = (*concept.names, *concept.keep, *((concept.stand_in,) if concept.stand_in else ()))
    found = dict.fromkeys(kind for name in concept.names for kind in kinds_of(name))
    return tuple(
        kind
        for kind in found
        if encoder.knows(kind) and not any(same_thing(kind, word) for word in spared)
    )


def kinds_to_forget(concept: Concept, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Those that go with the word; raises BadConcept where they are too many for one run."""
    if concept.covers == "word":
        return ()
    if len(kinds) > MOST_KINDS:
        raise BadConcept(
            f"{concept.name!r} covers {len(kinds)} kinds of things that this model knows, and one "
            f"run forgets {MOST_KINDS} at most: {in_words(kinds)}. Name narrower words, each in a "
            "run of its own, or forget the word alone."
        )
    return kinds


def keeping_parts(
    encoder: TextEncoder, concept: Concept, together: Sequence[Concept] = ()
) -> Concept:
    """The concept that keeps what its name is made of: "neon cat" keeps "neon" and "cat".

    Not so for what the tables know as one thing ("hot dog"), for styles and for persons, nor what
    is forgotten `together` with it.
    """
    if concept.kind in ("style", "person"):
        return concept
    gone = {name for one in (concept, *together) for name in one.names}
    parts = [
        part
        for name in concept.names
        if not find_noun(name)
        for part in _parts(name)
        if (find_noun(part) or find_style(part)) and encoder.knows(part)
    ]
    new = [part for part in parts if not any(same_words(part, name) for name in gone)]
    return concept.replace(keep=(*concept.keep, *new))


def _parts(name: str) -> list[str]:
    """All runs of words in it but itself, longest first."""
    words = name.split()
    sizes = range(len(words) - 1, 0, -1)
    return [
        " ".join(words[start : start + size])
        for size in sizes
        for start in range(len(words) - size + 1)
    ]


def in_words(kinds: tuple[str, ...]) -> str:
    """The first of them, and how many there are beside."""
    rest = len(kinds) - SHOWN
    shown = ", ".join(kinds[:SHOWN])
    return f"{shown} and {rest} more" if rest > 0 else shown


def look_around(
    encoder: TextEncoder, concept: Concept, known: KnownWords | None = None
) -> Neighbourhood:
    """Rank the words that the model knows by nearness to the concept.

    Words that the model takes for the concept itself are left out, see SAME. `known` are those
    beside all concepts of a run, without it those beside this one.
    """
    known = known or known_words(encoder, (concept,))
    others = list(known.styles if concept.kind == "style" else known.nouns)
    if concept.kind != "style":
        others = _sift(encoder, concept, others)
    others = [word for word in others if not _generalises(word, concept)]
    noun = noun_of_head(concept.name)
    ranked = by_nearness(encoder, concept, others)
    ranked.sort(key=lambda pair: not are_siblings(noun, find_noun(pair[0])))
    same = {word for word, cosine in ranked if cosine > SAME}
    return Neighbourhood(
        tuple(pair for pair in ranked if pair[0] not in same),
        tuple(word for word in known.nouns if word not in same),
        tuple(word for word in known.styles if word not in same),
    )


def are_siblings(noun: Noun | None, other: Noun | None) -> bool:
    """Of one category, or with the same broadest hypernym (owl and cat are both animals)."""
    if noun is None or other is None:
        return False
    broadest = bool(noun.hypernyms) and noun.hypernyms[-1:] == other.hypernyms[-1:]
    return noun.category == other.category or broadest


def _generalises(word: str, concept: Concept) -> bool:
    return any(is_hypernym(word, name) for name in concept.names)


def _is_named(word: str, concepts: Sequence[Concept]) -> bool:
    return any(same_thing(word, name) for concept in concepts for name in concept.names)


def _sift(encoder: TextEncoder, concept: Concept, words: Sequence[str]) -> list[str]:
    """The POOL words that share the concept's category or have the nearest word vectors."""
    if len(words) <= POOL:
        return list(words)
    noun = noun_of_head(concept.name)
    category = noun.category if noun else None
    if concept.kind == "person":
        category = "person"
    siblings = [word for word in words if nouns()[word].category == category]
    if len(siblings) >= POOL // 4:
        words = siblings

    def vector(word: str) -> Tensor:
        return encoder.word_vectors(Name.of(word).ids).mean(0) - encoder.mean_word_vector

    own = vector(concept.name)
    near = torch.stack([functional.cosine_similarity(vector(w), own, dim=0) for w in words])
    return [words[i] for i in near.argsort(descending=True, stable=True)[:POOL].tolist()]


@torch.no_grad()
def by_nearness(
    encoder: TextEncoder, concept: Concept, words: Sequence[str]
) -> list[tuple[str, float]]:
    """The words with their cosines to the concept at EOS, nearest first, hubs later."""
    if not words:
        return []
    template = plain_template(concept)
    rows = [fill(template, Name.of(word, concept.kind)) for word in (concept.name, *words)]
    prompts = make_prompts(rows)
    ids = prompts.token_ids[:, : int(prompts.ends.max()) + 1]
    near = torch.stack([_cosines(tower, ids, prompts.ends) for tower in encoder.towers]).mean(0)
    hubness = near[1:, 1:].mean(1)
    score = near[0, 1:] + HUBNESS_SHARE * hubness
    order = score.argsort(descending=True, stable=True).tolist()
    return [(words[i], float(near[0, i + 1])) for i in order]


def _cosines(tower: TowerEncoder, token_ids: Tensor, ends: Tensor) -> Tensor:
    """(N, N): of the states at EOS, their mean removed."""
    _, states = encode_all(tower, token_ids)
    states = states[torch.arange(len(states)), ends]
    if len(states) > 2:
        states = states - states.mean(0)
    unit = functional.normalize(states, dim=1)
    return unit @ unit.T
