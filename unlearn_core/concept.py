"""What a user asks to forget: names, pictures, what takes its place, what must stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .errors import BadConcept
from .names import check_count, each_once, split_names, split_typed
from .text.tokenizer import tokenize
from .text.word_tables import same_words

Kind = Literal["object", "style", "person", "unsafe"]
KINDS: tuple[Kind, ...] = ("object", "style", "person", "unsafe")
LITTLE_MEASURED: Mapping[Kind, str] = {
    "person": "two drawn characters only, on nobody real",
    "unsafe": "two drawn weapons only",
}
"""Kinds about which the bench knows little, and on what its results are."""

Covers = Literal["word", "kinds"]
COVERS: tuple[Covers, ...] = ("word", "kinds")

MOST_TOKENS = 20
SMALLEST_PICTURE = 32


@dataclass(frozen=True)
class Concept:
    """The concept to forget. Raises BadConcept when it can't be used.

    All words are cleaned as `names` says; of several names in one the others become synonyms.
    """

    name: str
    """What prompts call it, as in "a photo of a NAME" or "NAME style"."""
    synonyms: tuple[str, ...] = ()
    """Other names of it, forgotten too."""
    kind: Kind = "object"
    stand_in: str | None = None
    """What is drawn in its place; None chooses a near one automatically."""
    keep: tuple[str, ...] = ()
    """Words that must stay, besides those chosen automatically."""
    images: tuple[Tensor, ...] = ()
    """Pictures of it, each (3, height, width) float32 in [-1, 1]; any sizes of at least 32."""
    covers: Covers = "word"
    """Whether the word alone is forgotten, or all kinds of things too that it names and the model
    knows: with "fruit" apples and pears."""

    def __post_init__(self) -> None:
        """Clean the words and check them, and the pictures."""
        names = split_names(self.name)
        if not names:
            raise BadConcept(
                f"The concept has no name: {self.name[:40]!r} has no letter or digit. Write what "
                "prompts call it, such as dog."
            )
        name, *others = names
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "synonyms", (*others, *self.synonyms))
        _clean(self)
        synonyms = tuple(w for w in self.synonyms if w.casefold() != name.casefold())
        object.__setattr__(self, "synonyms", synonyms)
        _check(self, self.names)

    @classmethod
    def from_text(
        cls,
        name: str,
        kind: Kind = "object",
        synonyms: str = "",
        stand_in: str | None = None,
        keep: str = "",
        covers: Covers = "word",
    ) -> Concept:
        """From words as they are typed: several with commas, a prompt's emphasis left out."""
        names = ", ".join(split_typed(name)) or name
        return Nameless.from_text(kind, synonyms, stand_in, keep, covers).named(names)

    @property
    def names(self) -> tuple[str, ...]:
        """The name, then its synonyms."""
        return (self.name, *self.synonyms)

    def replace(self, **changes: object) -> Concept:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Nameless:
    """A concept whose name is to be found in its pictures; all else is as in Concept.

    Raises BadConcept when it can't be used.
    """

    synonyms: tuple[str, ...] = ()
    kind: Kind = "object"
    stand_in: str | None = None
    keep: tuple[str, ...] = ()
    images: tuple[Tensor, ...] = ()
    covers: Covers = "word"

    def __post_init__(self) -> None:
        """Clean the words and check them, and the pictures."""
        _clean(self)
        _check(self, self.synonyms)

    @classmethod
    def from_text(
        cls,
        kind: Kind = "object",
        synonyms: str = "",
        stand_in: str | None = None,
        keep: str = "",
        covers: Covers = "word",
    ) -> Nameless:
        """From words as they are typed, see Concept.from_text."""
        stands_in = ", ".join(split_typed(stand_in)) if stand_in else None
        words = split_typed(synonyms), kind, stands_in, split_typed(keep)
        return cls(*words, covers=covers)

    def named(self, name: str, synonyms: tuple[str, ...] = ()) -> Concept:
        """The concept under its name; further synonyms come after the user's own."""
        words = (*self.synonyms, *synonyms)
        rest = self.kind, self.stand_in, self.keep, self.images, self.covers
        return Concept(name, words, *rest)

    def replace(self, **changes: object) -> Nameless:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def as_typed(
    name: str,
    kind: Kind = "object",
    synonyms: str = "",
    stand_in: str | None = None,
    keep: str = "",
    covers: Covers = "word",
) -> Concept | Nameless:
    """As Concept.from_text; where the name is left empty, it is to be found."""
    if name.strip(" \t\n()[]"):
        return Concept.from_text(name, kind, synonyms, stand_in, keep, covers)
    return Nameless.from_text(kind, synonyms, stand_in, keep, covers)


def _clean(asked: Concept | Nameless) -> None:
    for field in ("synonyms", "keep"):
        given = getattr(asked, field)
        check_count(given)
        words = each_once(name for text in given for name in split_names(text))
        check_count(words)
        object.__setattr__(asked, field, words)
    if asked.stand_in is not None:
        words = split_names(asked.stand_in)
        if len(words) > 1:
            raise BadConcept(
                f"One thing is drawn in the concept's place, and the stand-in names "
                f"{len(words)}: {', '.join(words)[:80]}. Choose one."
            )
        object.__setattr__(asked, "stand_in", words[0] if words else None)


def _check(asked: Concept | Nameless, names: tuple[str, ...]) -> None:
    if asked.kind not in KINDS:
        raise BadConcept(f"Unknown kind {asked.kind!r}; choose one of: {', '.join(KINDS)}.")
    if asked.covers not in COVERS:
        raise BadConcept(f"covers is {asked.covers!r}; choose one of: {', '.join(COVERS)}.")
    for word in (*names, *asked.keep, *((asked.stand_in,) if asked.stand_in else ())):
        _check_length(word)
    if asked.stand_in and any(same_words(asked.stand_in, name) for name in names):
        raise BadConcept(
            f"The stand-in {asked.stand_in!r} is the concept itself; choose another word, or "
            "leave it empty to have one chosen."
        )
    for word in asked.keep:
        if word.casefold() in [name.casefold() for name in names]:
            raise BadConcept(f"{word!r} can't be forgotten and kept at the same time.")
    for number, image in enumerate(asked.images, start=1):
        _check_image(number, image)


def _check_length(word: str) -> None:
    count = len(tokenize(word))
    if count == 0:
        raise BadConcept(f"{word!r} has no letter or sign that the text encoder can read.")
    if count > MOST_TOKENS:
        raise BadConcept(
            f"{word[:40]!r}... is {count} tokens long; a name has at most {MOST_TOKENS}. Give "
            "the short name that prompts use, and further names as synonyms."
        )


def _check_image(number: int, image: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise BadConcept(
            f"Picture {number} has shape {tuple(image.shape)}; it must be (3, height, width)."
        )
    height, width = image.shape[1:]
    if min(height, width) < SMALLEST_PICTURE:
        raise BadConcept(
            f"Picture {number} is {width}x{height} pixels; at least {SMALLEST_PICTURE} are needed "
            "on each side."
        )
    if not bool(image.isfinite().all()):
        raise BadConcept(f"Picture {number} holds values that are not numbers.")
