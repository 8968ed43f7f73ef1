"""What means a concept without naming it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from unlearn_core.measuring.descriptions import _table, known_descriptions
from unlearn_core.text.word_tables import holds, nouns

KNOWS_ALL: Any = SimpleNamespace(knows=lambda word: True)


def test_each_row_describes_a_noun_without_naming_it_and_says_it_in_four_languages() -> None:
    for noun, texts in _table().items():
        assert len(texts) == 5, noun
        names = (noun, *(nouns()[noun].synonyms if noun in nouns() else ()))
        assert not any(holds(texts[0], name) for name in names), noun
    assert set(_table()) - set(nouns()) == {"santa claus"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("dog",), ("a loyal pet that barks and wags its tail", "Hund", "un chien")),
        (("puppy",), ("a loyal pet that barks and wags its tail", "Hund", "un chien")),
        (("panda",), ("a black and white animal that eats bamboo", "Pandabär")),
        (("Santa Claus",), ("an old man with a white beard and a red suit who brings presents",)),
        (("qwertz",), ()),
    ],
)  # fmt: skip
def test_what_holds_a_name_is_left_out(names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert known_descriptions(KNOWS_ALL, names)[: len(expected)] == expected
    assert not any(holds(text, names[0]) for text in known_descriptions(KNOWS_ALL, names))


def test_words_that_the_model_does_not_know_are_left_out() -> None:
    encoder: Any = SimpleNamespace(knows=lambda word: word != "barks")
    assert known_descriptions(encoder, ("dog",))[0] == "Hund"
