"""Names as people type and paste them: what separates them, and what is no part of one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sized

from .errors import BadConcept
from .text.tokenizer import strip_weights

MOST_LETTERS = 400
"""Characters of one name, before anything else is done with it."""
MOST_NAMES = 64
"""Names that one field may hold."""
SEPARATORS = ",;\uff0c\uff1b\u3001\u060c"
"""Comma and semicolon, also as Chinese, Japanese and Arabic write them."""
STOP_WORDS = frozenset(
    ("a", "an", "and", "are", "as", "at", "by", "for", "from", "her", "his", "in", "is", "it",
     "its", "my", "of", "on", "or", "our", "that", "the", "their", "this", "to", "with", "your")
)  # fmt: skip
"""Words that stand in nearly every prompt: forgetting one would change them all."""
_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}
_OPENING = {closing: opening for opening, closing in _CLOSING.items()}
_NEVER = re.compile('["\u00ab\u00bb\u201c\u201d\u201e\u201f\u300c-\u300f\uff02`©®™℠]')
"""Quotation marks and trade marks."""


def split_typed(text: str) -> tuple[str, ...]:
    """The names in a field as it is typed: as `split_names`, a prompt's emphasis left out."""
    if len(text) > MOST_NAMES * (MOST_LETTERS + 1):
        raise BadConcept(
            f"{text[:40]!r}... is {len(text)} characters long: that is more than names take."
        )
    return split_names(strip_weights(text))


def split_names(text: str) -> tuple[str, ...]:
    """The names in a text, each once and as `clean_name` leaves it; empty ones are left out.

    Raises BadConcept for more than MOST_NAMES, and as `clean_name` does.
    """
    parts = [part for part in re.split(f"[{SEPARATORS}]", text) if part.strip()]
    check_count(parts)
    return each_once(name for name in map(clean_name, parts) if name)


def each_once(names: Iterable[str]) -> tuple[str, ...]:
    """The names in their order, each once; capitals make no other name."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(name.casefold(), name)
    return tuple(first.values())


def check_count(names: Sized) -> None:
    """Raise BadConcept for more names than one field may hold."""
    if len(names) > MOST_NAMES:
        raise BadConcept(f"These are {len(names)} names; give {MOST_NAMES} at most.")


def clean_name(text: str) -> str:
    """One name without what is no part of it; "" where nothing is left.

    Marks of format (text copied from a page carries them) and quotation marks are taken out, signs
    at both ends too, and "a" or "an" before it; a bracket stays if its other half is inside the
    name: `"dog!"` and `a dog` are `dog`, `pikachu (pokemon)` is whole. Emoji are letters.

    Raises BadConcept for more than MOST_LETTERS, for control characters, and for stop words.
    """
    if len(text) > MOST_LETTERS:
        raise BadConcept(
            f"{text[:40]!r}... is {len(text)} characters long; a name has at most {MOST_LETTERS}. "
            "Give the short name that prompts use."
        )
    visible = "".join(letter for letter in text if _is_text(letter, text))
    name, before = " ".join(_NEVER.sub(" ", visible).split()), None
    while name != before:
        before = name
        name = _without_first_signs(name, _CLOSING)
        name = _without_first_signs(name[::-1], _OPENING)[::-1]
        name = re.sub("^an? ", "", name)
    words = re.findall(r"\w+", name.casefold())
    if words and all(word in STOP_WORDS for word in words):
        raise BadConcept(
            f"{name!r} stands in nearly every prompt, so it can't be a name: write what prompts "
            "call the thing."
        )
    return name


def _is_text(letter: str, text: str) -> bool:
    """False for a mark of format; raises BadConcept for what can't be typed."""
    kind = unicodedata.category(letter)
    if kind == "Cs" or (kind == "Cc" and not letter.isspace()) or "\x1c" <= letter <= "\x1f":
        raise BadConcept(
            f"{text[:40]!r} holds {letter!r}, which is no character of a text: type the name anew."
        )
    return kind != "Cf"


def _without_first_signs(name: str, partners: Mapping[str, str]) -> str:
    while name and _is_sign(name[0]):
        partner = _partner(name, partners)
        if partner is None:
            name = name[1:].strip()
        elif partner == len(name) - 1:
            name = name[1:-1].strip()
        else:
            break
    return name


def _is_sign(letter: str) -> bool:
    kind = unicodedata.category(letter)
    return kind[0] == "P" or kind in ("Sm", "Sc", "Sk")


def _partner(name: str, partners: Mapping[str, str]) -> int | None:
    """Where the bracket that a name begins with is closed; None if it is none, or never."""
    closing, depth = partners.get(name[0]), 0
    for place, letter in enumerate(name):
        depth += (letter == name[0]) - (letter == closing)
        if depth == 0:
            return place
    return None
