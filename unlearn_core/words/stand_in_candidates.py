"""Which words may take a concept's place, best first: what fits its kind, then what is near."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..concept import Concept, Kind
from ..text.word_tables import find_noun, is_general, is_hypernym, noun_of_head
from .neighbours import Neighbourhood, are_siblings
from .prompt_templates import COLORS

Near = tuple[str, float]
"""A word and its cosine to the concept."""


@dataclass(frozen=True)
class Rank:
    """Words that are taken one like the other: those named, and those of some categories."""

    words: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()

    def has(self, word: str) -> bool:
        """Whether a word is of this rank; nothing unfit and no weapon is."""
        noun = find_noun(word)
        if noun is None or noun.word in UNFIT or is_hypernym("weapon", word):
            return False
        return noun.word in self.words or noun.category in self.categories


POOLS: Mapping[Kind, tuple[Rank, ...]] = {
    "person": (
        Rank(words=("man", "woman", "boy", "girl", "old man", "old woman")),
        Rank(categories=("person",)),
        Rank(words=("robot", "snowman", "doll", "statue", "puppet", "scarecrow")),
    ),
    "unsafe": (
        Rank(categories=("toy", "tool", "instrument")),
        Rank(categories=("clothing", "container", "furniture", "sport")),
    ),
}
"""Of a person another one, no one in particular first, and figures where the model knows nobody;
of something unsafe a harmless thing of the same scene. Objects and styles take what is near."""
UNFIT = frozenset(
    {
        "axe", "chain", "chainsaw", "cleaver", "dart", "jackhammer", "knife", "machete",
        "mousetrap", "pickaxe", "pitchfork", "pocketknife", "razor", "saw", "scalpel", "scythe",
        "shears", "slingshot", "syringe", "water pistol", "whip",
        "ashtray", "balaclava", "baseball bat", "bikini", "bra", "cage", "coffin", "corset",
        "gas mask", "miniskirt", "pantyhose", "stocking", "swimsuit", "underwear", "urn",
        "couple", "crowd", "demon", "family", "maid", "orchestra", "pope", "prisoner", "rock band",
        "twins", "zombie",
    }
)  # fmt: skip
"""What the pools would else hold, beside weapons: sharp things, few clothes, several people."""
EACH = 2
"""Words of a rank that come before those of the next: only a few candidates are drawn."""
FAR = -0.1
"""Cosine below which even a word of the concept's group is no neighbour: to the demo model "neon
sign" is farther from "robot" than most words are. "dagger" and "bomb" have -0.05."""


def candidates(concept: Concept, around: Neighbourhood) -> list[Near]:
    """The ranked words that may stand in: none that contains, is or generalises the concept.

    General words come last, for "animal" a model draws anything, and sometimes the concept, as for
    "fruit salad" an apple; among the others those that are far, then kinds of another candidate
    ("school bus" beside "bus").
    Nor the name of a colour: "orange" is read as that, and anything may be drawn in it. Nor, for a
    thing, a part of a body, or a word for a picture: what is drawn for "drawing" is anything, the
    concept too.
    """
    noun = noun_of_head(concept.name)
    kept = {word.casefold() for word in concept.keep}
    free = [
        (word, cosine)
        for word, cosine in around.ranked
        if word.casefold() not in (*kept, *COLORS)
        and not any(is_hypernym(name, word) for name in concept.names)
    ]
    if concept.kind == "style":
        return free
    if not is_hypernym("picture", concept.name):
        free = [pair for pair in free if not is_hypernym("picture", pair[0])]
    if not _is_of_body(concept.name):
        free = [pair for pair in free if not _is_of_body(pair[0])]
    others = [pair for pair in free if not are_siblings(noun, find_noun(pair[0]))]
    if concept.kind in POOLS:
        return _of_pool(concept, free) or others or free
    fitting = {w for w, near in free if near > FAR and are_siblings(noun, find_noun(w))}
    chosen = [pair for pair in free if pair[0] in fitting] or free
    words = {word for word, _ in chosen}

    def order(pair: Near) -> tuple[bool, bool, bool]:
        word, cosine = pair
        return _is_vague(word, concept), cosine <= FAR, _is_kind(word, words)

    return sorted(chosen, key=order)


def _of_pool(concept: Concept, free: Sequence[Near]) -> list[Near]:
    """Those of the kind's pool, EACH of every rank in turn, compounds and general words last.

    What names nothing of the noun table may be anything: there the ranks count as one.
    """
    ranks = POOLS[concept.kind]
    found = {
        pair: place
        for place in reversed(range(len(ranks)))
        for pair in free
        if ranks[place].has(pair[0])
    }
    if concept.kind == "unsafe" and find_noun(concept.name) is None:
        found = dict.fromkeys(found, 0)

    def is_poor(pair: Near) -> tuple[bool, bool]:
        return _is_vague(pair[0], concept), " " in pair[0]

    turns: dict[Near, int] = {}
    seen = Counter[int]()
    for pair in sorted(found, key=lambda pair: (is_poor(pair), free.index(pair))):
        turns[pair] = seen[found[pair]] // EACH
        seen[found[pair]] += 1
    return sorted(turns, key=lambda pair: (is_poor(pair), turns[pair], found[pair]))


def _is_vague(word: str, concept: Concept) -> bool:
    return is_general(word) or _holds_general(word, concept)


def _holds_general(word: str, concept: Concept) -> bool:
    """Whether a part of it is a more general word for the concept, as in "fruit salad"."""
    return any(is_hypernym(part, name) for part in word.split() for name in concept.names)


def _is_of_body(word: str) -> bool:
    noun = find_noun(word)
    return noun is not None and noun.category == "body"


def _is_kind(word: str, words: Collection[str]) -> bool:
    """Whether it is a compound of one of the words and what kind of that it is."""
    _, space, last = word.rpartition(" ")
    return bool(space) and last in words
