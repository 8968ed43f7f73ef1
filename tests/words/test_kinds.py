"""What a word covers, and what of it goes with the word."""

from __future__ import annotations

import pytest
from tiny_model import TinyModel, tiny_encoder

from unlearn_core.concept import Concept
from unlearn_core.errors import BadConcept
from unlearn_core.forgetting.unlearn import unlearn
from unlearn_core.settings import preset
from unlearn_core.words.neighbours import (
    MOST_KINDS,
    in_words,
    keeping_parts,
    kinds_of,
    kinds_to_forget,
    known_kinds,
)

FRUIT = Concept("fruit", stand_in="car")
QUICK = preset("quick", forget_prompts=16, keep_prompts=16, stand_in_pictures=0)


def test_kinds_are_narrower_words_and_neither_synonyms_nor_siblings() -> None:
    assert "tabby" in kinds_of("cat")
    assert not {"cat", "kitten", "dog", "animal"} & set(kinds_of("cat"))
    assert {"apple", "banana"} <= set(kinds_of("fruit"))
    assert kinds_of("rabbit") == ()


@pytest.mark.parametrize(
    ("concept", "expected"),
    [
        (FRUIT, ("apple", "banana", "orange")),
        (Concept("fruit", keep=("apple",)), ("banana", "orange")),
        (Concept("fruit", ("bananas",)), ("apple", "orange")),
        (Concept("fruit", stand_in="a red apple"), ("banana", "orange")),
        (Concept("fruit", kind="style"), ()),
        (Concept("xylograph"), ()),
    ],
)
def test_only_kinds_that_the_model_knows_and_that_shall_not_stay(
    concept: Concept, expected: tuple[str, ...]
) -> None:
    assert known_kinds(tiny_encoder(), concept) == expected


def test_a_word_is_forgotten_alone_unless_its_kinds_are_asked_for() -> None:
    assert kinds_to_forget(FRUIT, ("apple", "banana")) == ()
    with_kinds = FRUIT.replace(covers="kinds")
    assert kinds_to_forget(with_kinds, ("apple", "banana")) == ("apple", "banana")
    many = kinds_of("animal")
    assert len(many) > MOST_KINDS
    with pytest.raises(BadConcept, match="64 at most: albatross, alligator"):
        kinds_to_forget(Concept("animal", covers="kinds"), many)


def test_what_a_word_may_cover_is_checked() -> None:
    with pytest.raises(BadConcept, match="covers is 'all'; choose one of: word, kinds"):
        Concept("fruit", covers="all")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("concept", "kept"),
    [
        (Concept("anime cat"), ("anime", "cat")),
        (Concept("old red bus"), ("bus",)),
        (Concept("red panda"), ()),  # one thing to the table
        (Concept("cat"), ()),
        (Concept("anime cat", keep=("fox", "cat")), ("fox", "cat", "anime")),
        (Concept("cat king", kind="person"), ()),
        (Concept("anime cat", kind="style"), ()),
        (Concept("xylograph bus", kind="unsafe"), ("bus",)),
    ],
)
def test_a_name_of_several_words_keeps_what_it_is_made_of(
    concept: Concept, kept: tuple[str, ...]
) -> None:
    assert keeping_parts(tiny_encoder(), concept).keep == kept


def test_what_is_forgotten_together_is_not_kept() -> None:
    both = (Concept("anime cat"), Concept("cats"))
    assert keeping_parts(tiny_encoder(), both[0], both).keep == ("anime",)


@pytest.mark.parametrize("name", ["red", "Blue", "white background"])
def test_a_colour_or_a_background_is_refused(name: str) -> None:
    with pytest.raises(BadConcept, match="is a colour or a background"):
        unlearn(TinyModel(), Concept(name), QUICK)


def test_a_fruit_that_is_called_as_a_colour_is_none() -> None:
    assert unlearn(TinyModel(), Concept("orange"), QUICK).names[0] == "orange"


def test_a_long_list_is_cut() -> None:
    assert in_words(("a", "b")) == "a, b"
    assert in_words(tuple("abcdefgh")) == "a, b, c, d, e, f and 2 more"


def test_a_run_says_what_stays_or_forgets_it_too() -> None:
    alone = unlearn(TinyModel(), FRUIT, QUICK)
    said = (
        "Only the word 'fruit' was forgotten. Kinds of it stay as they are: apple, banana, orange."
    )
    assert any(note.startswith(said) for note in alone.notes)
    assert "apple" not in alone.names
    whole = unlearn(TinyModel(), FRUIT.replace(covers="kinds"), QUICK.replace(rank=1))
    assert not any("Only the word" in note for note in whole.notes)
    assert {"fruit", "apple", "banana"} <= set(whole.names)
    assert not {"apple", "banana"} & set(whole.kept)
    assert whole.stand_in.word == "car"
    assert (alone.settings.rank, whole.settings.rank) == (8, 1 + len(kinds_of("fruit")))
