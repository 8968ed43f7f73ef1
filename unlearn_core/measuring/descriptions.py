"""What means a concept without naming it: a description, and its word in other languages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ..errors import BadFile
from ..text.text_encoder import TextEncoder
from ..text.word_tables import find_noun, holds

_FILE = Path(__file__).with_name("descriptions.tsv")
"""A row for each of the commonest things: its noun, a description in English, then the word in
German, French, Spanish and Italian, with its article where a prompt would have it."""


def known_descriptions(encoder: TextEncoder, names: Sequence[str]) -> tuple[str, ...]:
    """What the table has for the first of `names`, in words that the model knows.

    What holds one of the names is left out, as "un panda" for a panda. Raises BadFile.
    """
    noun = find_noun(names[0])
    rows = _table().get(noun.word if noun else names[0].casefold(), ())
    free = [text for text in rows if not any(holds(text, name) for name in names)]
    return tuple(text for text in free if all(map(encoder.knows, text.split())))


@cache
def _table() -> dict[str, tuple[str, ...]]:
    try:
        lines = _FILE.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{_FILE} can't be read ({error}); install this extension again") from error
    rows = [line.split("\t") for line in lines]
    return {noun: tuple(texts) for noun, *texts in rows}
