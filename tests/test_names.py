"""Names as they are typed and pasted."""

import time

import pytest

from unlearn_core.errors import BadConcept
from unlearn_core.names import MOST_LETTERS, MOST_NAMES, clean_name, split_names, split_typed


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("dog", ("dog",)),
        ("cat, owl", ("cat", "owl")),
        ("cat,owl", ("cat", "owl")),
        ("dog;cat", ("dog", "cat")),
        ("犬、猫\uff0c狐", ("犬", "猫", "狐")),
        (" dog ,, puppy , ", ("dog", "puppy")),
        ("dog, Dog, DOG, pup", ("dog", "pup")),
        ("(dog:1.4), [cat]", ("dog", "cat")),
        ("((grumpy cat)), \\(dog\\)", ("grumpy cat", "dog")),
        ("van \n gogh", ("van gogh",)),
        ("", ()),
        (" , ;", ()),
    ],
)
def test_commas_separate_names(typed: str, names: tuple[str, ...]) -> None:
    assert split_typed(typed) == names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('"dog"', "dog"),
        ("“dog”", "dog"),
        ("«Dog»", "Dog"),
        ("'dog'", "dog"),
        ("dog!", "dog"),
        ("cat.", "cat"),
        ("#dog", "dog"),
        ("*dog*", "dog"),
        ("((dog))", "dog"),
        ("(dog", "dog"),
        ("dog)", "dog"),
        ("<dog>", "dog"),
        ("-- dog --", "dog"),
        ('the "big" dog', "the big dog"),
        ("\u202edog", "dog"),
        ("dog\u202c", "dog"),
        ("d\u200bog\ufeff", "dog"),
        ("so\u00adfa", "sofa"),
        ("Mickey Mouse™", "Mickey Mouse"),
        ("a dog", "dog"),
        ("an owl", "owl"),
        ("A dog", "A dog"),
        ("a (a dog)", "dog"),
        ("a a !dog", "dog"),
        ("The Rock", "The Rock"),
        ("the rock", "the rock"),
        ("dog/cat", "dog/cat"),
        ("dog-cat", "dog-cat"),
        ("dog_cat", "dog_cat"),
        ("Guns N' Roses", "Guns N' Roses"),
        ("St. Bernard", "St. Bernard"),
        ("E.T.", "E.T"),
        ("pikachu (pokemon)", "pikachu (pokemon)"),
        ("(a) b (c)", "(a) b (c)"),
        ("3d", "3d"),
        ("🐶", "🐶"),
        ("dog 🐶", "dog 🐶"),
        ("!!!", ""),
        ("...", ""),
    ],
)
def test_signs_around_a_name_are_no_part_of_it(text: str, name: str) -> None:
    assert clean_name(text) == name
    assert clean_name(name) == name


@pytest.mark.parametrize("name", ["the", "The", "a", "of", "of the", '"the"', "and", "a the"])
def test_stop_words_are_no_names(name: str) -> None:
    with pytest.raises(BadConcept, match="stands in nearly every prompt"):
        clean_name(name)


@pytest.mark.parametrize("sign", ["\0", "\x07", "\x1c", "\x1f", "\x7f", "\x9b", "\udcff"])
def test_what_nobody_can_type_is_refused(sign: str) -> None:
    with pytest.raises(BadConcept, match="no character of a text"):
        clean_name(f"do{sign}g")


def test_names_are_counted_and_measured_before_anything_else() -> None:
    started = time.monotonic()
    with pytest.raises(BadConcept, match=f"give {MOST_NAMES} at most"):
        split_names("x," * 1_000_000)
    with pytest.raises(BadConcept, match=f"at most {MOST_LETTERS}"):
        split_names("x" * 2_000_000)
    with pytest.raises(BadConcept, match="2000000 characters"):
        split_typed("(" * 2_000_000)
    assert time.monotonic() - started < 5
