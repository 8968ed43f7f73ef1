"""What a user may ask to forget, and what is refused."""

from typing import Any

import pytest
import torch

from unlearn_core.concept import KINDS, MOST_TOKENS, SMALLEST_PICTURE, Concept, Nameless, as_typed
from unlearn_core.errors import BadConcept

PICTURE = torch.zeros(3, 40, 50)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"name": "  van \n gogh\t"}, {"name": "van gogh"}),
        ({"name": "dog", "synonyms": (" pup ", "", "pup", " ")}, {"synonyms": ("pup",)}),
        ({"name": "dog", "keep": ("cat", "cat ", "")}, {"keep": ("cat",)}),
        ({"name": "dog", "stand_in": "  "}, {"stand_in": None}),
        ({"name": "dog", "stand_in": " big  cat "}, {"stand_in": "big cat"}),
        ({"name": "Dog"}, {"name": "Dog"}),
        ({"name": "dog"}, {"synonyms": (), "keep": (), "stand_in": None, "kind": "object"}),
    ],
)
def test_words_are_cleaned_up(given: dict[str, Any], expected: dict[str, Any]) -> None:
    concept = Concept(**given)
    assert {name: getattr(concept, name) for name in expected} == expected


def test_names_are_the_name_and_then_its_synonyms() -> None:
    assert Concept("dog", ("pup", "hound")).names == ("dog", "pup", "hound")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": ""}, "has no name"),
        ({"name": " \n\t"}, "has no name"),
        ({"name": "dog", "kind": "animal"}, "Unknown kind 'animal'; choose one of: object"),
        ({"name": "dog", "stand_in": "DOG"}, "is the concept itself"),
        ({"name": "dog", "synonyms": ("pup",), "stand_in": "Pup"}, "is the concept itself"),
        ({"name": "dog", "keep": ("cat", "Dog")}, "forgotten and kept at the same time"),
        ({"name": "dog", "synonyms": ("pup",), "keep": ("pup",)}, "forgotten and kept"),
        ({"name": "dog", "synonyms": ("x " * 30,)}, "30 tokens long"),
        ({"name": "dog", "keep": ("x " * 30,)}, "30 tokens long"),
        ({"name": "dog", "stand_in": "x " * 30}, "30 tokens long"),
        ({"name": "word " * 50}, f"50 tokens long; a name has at most {MOST_TOKENS}"),
        ({"name": "dog" * 5000}, "15000 characters long; a name has at most 400"),
    ],
)
def test_a_concept_that_can_not_be_used_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConcept, match=message) as caught:
        Concept(**given)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_taken(kind: Any) -> None:
    assert Concept("x", kind=kind).kind == kind


def test_the_longest_name_is_taken() -> None:
    assert Concept("x " * MOST_TOKENS).name == " ".join("x" * MOST_TOKENS)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 40, 40), r"Picture 2 has shape \(1, 40, 40\)"),
        (torch.zeros(4, 40, 40), "must be"),
        (torch.zeros(40, 40, 3), "must be"),
        (torch.zeros(1, 3, 40, 40), "must be"),
        (torch.zeros(3, 40), "must be"),
        (torch.zeros(3, 40, 40, dtype=torch.uint8), "must be"),
        (torch.zeros(3, 40, SMALLEST_PICTURE - 1), "Picture 2 is 31x40 pixels"),
        (torch.zeros(3, SMALLEST_PICTURE - 1, 40), "at least 32"),
        (torch.zeros(3, 1, 1), "1x1"),
        (torch.zeros(3, 0, 0), "0x0"),
        (torch.full((3, 40, 40), float("nan")), "not numbers"),
        (torch.full((3, 40, 40), float("inf")), "not numbers"),
    ],
)
def test_a_picture_that_can_not_be_used_is_refused(image: torch.Tensor, message: str) -> None:
    with pytest.raises(BadConcept, match=message):
        Concept("dog", images=(PICTURE, image))


def test_pictures_of_different_sizes_are_taken() -> None:
    smallest = torch.zeros(3, SMALLEST_PICTURE, SMALLEST_PICTURE)
    assert len(Concept("dog", images=(PICTURE, smallest, PICTURE.half())).images) == 3


def test_a_copy_with_other_values_is_checked_too() -> None:
    concept = Concept("dog", ("pup",), keep=("cat",))
    assert concept.replace(name="fox") == Concept("fox", ("pup",), keep=("cat",))
    with pytest.raises(BadConcept):
        concept.replace(name="cat")


@pytest.mark.parametrize("name", ["", "  ", "()"])
def test_a_name_that_is_left_empty_is_one_to_be_found(name: str) -> None:
    asked = as_typed(name, "style", "(pup:1.2), ", " ink ", "cat,cat")
    assert asked == Nameless(("pup",), "style", "ink", ("cat",))
    assert as_typed("(dog:1.2)", "object", "pup") == Concept("dog", ("pup",))


def test_a_found_name_comes_before_the_users_synonyms() -> None:
    nameless = Nameless(("pup",), keep=("cat",), images=(PICTURE,))
    concept = nameless.named("dog", ("puppy", "pup"))
    assert concept.names == ("dog", "pup", "puppy")
    assert concept.keep == ("cat",)
    assert len(concept.images) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "animal"}, "Unknown kind"),
        ({"synonyms": ("pup",), "keep": ("Pup",)}, "forgotten and kept"),
        ({"synonyms": ("pup",), "stand_in": "PUP"}, "is the concept itself"),
        ({"keep": ("x " * 30,)}, "30 tokens long"),
        ({"images": (torch.zeros(3, 8, 8),)}, "at least 32"),
    ],
)
def test_a_nameless_concept_is_checked_as_well(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConcept, match=message):
        Nameless(**given)


@pytest.mark.parametrize("typed", ["cat, owl", "cat;owl", '"cat", (owl:1.3)', "cat, owl, Cat"])
def test_further_names_become_synonyms_in_every_door(typed: str) -> None:
    expected = Concept("cat", ("owl", "kitten"))
    assert Concept.from_text(typed, synonyms="kitten") == expected
    assert as_typed(typed, synonyms="kitten") == expected


@pytest.mark.parametrize(
    "name", ['"dog"', "dog!", "dog.", "\u202edog", "dog\u202c", "a dog", "(dog)", "dog, dog"]
)
def test_signs_around_a_name_make_no_other_concept(name: str) -> None:
    assert Concept(name) == Concept("dog")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "!!!"}, "has no letter or digit"),
        ({"name": "the"}, "stands in nearly every prompt"),
        ({"name": "do\0g"}, "no character of a text"),
        ({"name": "dog", "stand_in": "dogs"}, "is the concept itself"),
        ({"name": "dog", "stand_in": '"dog"'}, "is the concept itself"),
        ({"name": "dog", "stand_in": "a dog"}, "is the concept itself"),
        ({"name": "dog", "stand_in": "fox, wolf"}, "names 2: fox, wolf"),
        ({"name": "dog", "keep": ("dog!",)}, "forgotten and kept"),
        ({"name": "dog", "synonyms": ("pup",) * 9000}, "9000 names; give 64 at most"),
        ({"name": "dog", "keep": tuple(map(str, range(65)))}, "65 names"),
        ({"name": "dog", "keep": (",".join(map(str, range(65))),)}, "65 names"),
    ],
)
def test_words_that_are_no_names_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConcept, match=message):
        Concept(**given)
