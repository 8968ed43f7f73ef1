"""Reviewed tables of nouns and art styles: what may replace a concept, and what must be kept.

CLIP's vocabulary says nothing about parts of speech, so the choice of a stand-in starts here.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from ..errors import BadFile

# These name every drawable thing, so the tables' hypernym columns need not repeat them.
_NAMES_OF_EVERYTHING = frozenset({"thing", "object"})
GENERAL = 25
"""Nouns, of about 2,100, that a word must be broader than to name no one thing to draw."""
_ARTICLES = frozenset({"a", "an", "the"})
_WORD = re.compile(r"[^\W\d_]+|\d+")
_FOLDER = Path(__file__).parent
_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class Noun:
    """A common noun that a picture can show."""

    word: str
    """Lower case; a plural where that is the usual form ("cherries", "jeans")."""
    hypernyms: tuple[str, ...]
    """General words that also name it, nearest first ("canine", ..., "animal")."""
    synonyms: tuple[str, ...]
    """Words for the same thing, and close hyponyms ("puppy" of "dog")."""
    category: str
    """One of about 25 broad groups ("animal", "tool"); nouns of one group are siblings."""


@dataclass(frozen=True)
class Style:
    """A look that a picture can have."""

    name: str
    """How a prompt names it, lower case ("watercolor")."""
    synonyms: tuple[str, ...]
    """Other names of the same look ("watercolor painting")."""
    category: str
    """Medium, digital, illustration, photography, technique, movement or artist (painters who died
    before 1950 only)."""


@cache
def nouns() -> dict[str, Noun]:
    """Return the noun table by noun, in alphabetical order; shared, so don't change it.

    Raises BadFile if nouns.tsv is missing or damaged.
    """
    rows = _rows("nouns.tsv", ("noun", "hypernyms", "synonyms", "category"))
    return {
        word: Noun(word, _split(hypernyms), _split(synonyms), category)
        for word, hypernyms, synonyms, category in rows
    }


@cache
def styles() -> dict[str, Style]:
    """Return the style table by name, as `nouns` does."""
    rows = _rows("styles.tsv", ("style", "synonyms", "category"))
    return {name: Style(name, _split(synonyms), category) for name, synonyms, category in rows}


def find_noun(word: str) -> Noun | None:
    """Return the noun that a word names, itself, by a synonym or in its regular plural, else None.

    Letter case, surrounding blanks and a leading article don't matter.

    >>> find_noun("A Puppy").word
    'dog'
    """
    return _lookup(word, _nouns_by_name())


def find_style(word: str) -> Style | None:
    """Return the style that a word names, itself or by a synonym, else None, as find_noun does."""
    return _lookup(word, _styles_by_name())


def same_words(a: str, b: str) -> bool:
    """Say whether two phrases are the same words: capitals, article, signs and plural aside."""
    if find_noun(a) != find_noun(b):
        return False  # "glass" and "glasses"
    return not _forms(_words(a)).isdisjoint(_forms(_words(b)))


def holds(phrase: str, name: str) -> bool:
    """Say whether `name` stands as whole words inside a phrase, in singular or plural."""
    words = _words(name)
    return bool(words) and _holds(_words(phrase), words)


def same_thing(a: str, b: str) -> bool:
    """Say whether two words name the same thing, so that one can't replace the other.

    True for synonyms, for singular and plural, and where one (or a synonym of it) stands as whole
    words inside the other: "red apple" and "apple". The last is cautious on purpose: "hot dog"
    counts as "dog" too, since forgetting a word disturbs every phrase that holds it.
    """
    words_a, words_b = _words(a), _words(b)
    if not words_a or not words_b:
        return False
    noun_a, noun_b = find_noun(a), find_noun(b)
    if noun_a and noun_b and noun_a != noun_b and len(words_a) == len(words_b) == 1:
        return False  # "glass" and "glasses" share a stem, and nothing else
    return any(_holds(words_b, name) for name in _names_of(a)) or any(
        _holds(words_a, name) for name in _names_of(b)
    )


def is_hypernym(general: str, word: str) -> bool:
    """Say whether `general` is a broader word for what `word` names: "animal" for "dog".

    Both are read as find_noun reads them, so "beast" is broader than "puppy" too. A phrase that
    the table lacks is judged by its last words: "vehicle" is broader than "blue car". "thing" and
    "object" are broader than every other word. No word is its own hypernym.
    """
    if not _words(word):
        return False
    if not _NAMES_OF_EVERYTHING.isdisjoint(_forms(_words(general))):
        return _NAMES_OF_EVERYTHING.isdisjoint(_forms(_words(word)))
    noun = noun_of_head(word)
    if noun is None:
        return False
    broader = {form for name in _names_of(general) for form in _forms(name)}
    return not broader.isdisjoint(noun.hypernyms)


def is_general(word: str) -> bool:
    """Say whether a word is broader than GENERAL nouns of the table: "animal", "tool", "fruit"."""
    return " ".join(_words(word)) in _general_words()


def singular_of(word: str) -> str | None:
    """The singular of a noun in its regular plural, "dog" for "dogs"; else None."""
    plain = " ".join(_words(word))
    return next((form for form in _singulars(plain) if find_noun(form)), None)


def _rows(file_name: str, columns: tuple[str, ...]) -> Iterator[list[str]]:
    path = _FOLDER / file_name
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} can't be read ({error}); install this extension again") from error
    table = [line.split("\t") for line in lines if not line.startswith("#")]
    if not table or tuple(table[0]) != columns:
        raise BadFile(f"{path} has no header {columns}; install this extension again")
    for row in table[1:]:
        if len(row) != len(columns):
            raise BadFile(
                f"{path}: {row} has {len(row)} columns, expected {len(columns)}; "
                "install this extension again"
            )
        yield row


def _split(cell: str) -> tuple[str, ...]:
    return tuple(cell.split("|")) if cell else ()


@cache
def _general_words() -> frozenset[str]:
    below = Counter(general for noun in nouns().values() for general in noun.hypernyms)
    return frozenset(word for word, count in below.items() if count >= GENERAL)


@cache
def _nouns_by_name() -> dict[str, Noun]:
    return _by_words((noun, (noun.word, *noun.synonyms)) for noun in nouns().values())


@cache
def _styles_by_name() -> dict[str, Style]:
    return _by_words((style, (style.name, *style.synonyms)) for style in styles().values())


def _by_words(entries: Iterable[tuple[_Entry, tuple[str, ...]]]) -> dict[str, _Entry]:
    return {" ".join(_words(name)): entry for entry, names in entries for name in names}


def _lookup(word: str, by_name: Mapping[str, _Entry]) -> _Entry | None:
    plain = " ".join(_words(word))
    for form in (plain, *_singulars(plain)):
        if form in by_name:
            return by_name[form]
    return None


def noun_of_head(word: str) -> Noun | None:
    """Return the noun that a phrase names by its last words: "car" for "old blue car"."""
    words = _words(word)
    return next(filter(None, (find_noun(" ".join(words[i:])) for i in range(len(words)))), None)


def _words(phrase: str) -> tuple[str, ...]:
    """Return the lower-case words of a phrase without its leading article.

    Signs and digits end a word, as they do for the text encoder: "dog/cat" and "dog2" hold "dog".
    """
    words = tuple(_WORD.findall(unicodedata.normalize("NFC", phrase).lower()))
    return words[1:] if words and words[0] in _ARTICLES else words


def _singulars(plain: str) -> list[str]:
    """Return what a phrase may be the regular plural of, likeliest first."""
    if not plain.endswith("s") or plain.endswith(("ss", "us", "is")):
        return []
    guesses = [plain[:-1]]
    if plain.endswith("es"):
        guesses.append(plain[:-2])
    if plain.endswith("ies"):
        guesses.append(plain[:-3] + "y")
    if plain.endswith("ves"):
        guesses += [plain[:-3] + "f", plain[:-3] + "fe"]
    return guesses


def _forms(words: tuple[str, ...]) -> set[str]:
    plain = " ".join(words)
    return {plain, *_singulars(plain)}


def _names_of(phrase: str) -> set[tuple[str, ...]]:
    """Return the phrase and the names of the noun or style that it names, each split in words."""
    names = {_words(phrase)}
    if noun := find_noun(phrase):
        names |= {_words(name) for name in (noun.word, *noun.synonyms)}
    if style := find_style(phrase):
        names |= {_words(name) for name in (style.name, *style.synonyms)}
    return names


def _holds(words: tuple[str, ...], name: tuple[str, ...]) -> bool:
    """Say whether `name` stands somewhere in `words`, in singular or plural."""
    forms, size = _forms(name), len(name)
    return any(
        not forms.isdisjoint(_forms(words[start : start + size]))
        for start in range(len(words) - size + 1)
    )
