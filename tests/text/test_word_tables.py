"""The shipped tables of nouns and styles, and the questions that are asked of them."""

import re
from collections import Counter
from pathlib import Path

import pytest

from unlearn_core.errors import BadFile
from unlearn_core.text import word_tables
from unlearn_core.text.word_tables import (
    Noun,
    find_noun,
    find_style,
    holds,
    is_general,
    is_hypernym,
    nouns,
    same_thing,
    same_words,
    singular_of,
    styles,
)

CATEGORIES = [
    *("animal", "bird", "fish", "insect", "fruit", "vegetable", "plant", "food", "drink"),
    *("vehicle", "building", "furniture", "tool", "weapon", "clothing", "instrument", "toy"),
    *("container", "device", "person", "body", "nature", "sport", "jewelry", "thing"),
]
STYLE_CATEGORIES = [
    *("medium", "digital", "illustration", "photography", "technique", "movement", "artist"),
]

# The demo world's objects, other names of each, and what must be broader than it.
DEMO_OBJECTS = [
    ("dog", ["puppy"], ["canine", "mammal", "animal"]),
    ("cat", ["kitten"], ["feline", "animal"]),
    ("fox", [], ["canine", "animal"]),
    ("wolf", ["wolves"], ["canine", "animal"]),
    ("bear", [], ["mammal", "animal"]),
    ("panda", ["giant panda"], ["bear", "animal"]),
    ("lion", [], ["feline", "animal"]),
    ("tiger", [], ["feline", "animal"]),
    ("horse", ["pony"], ["animal"]),
    ("cow", [], ["farm animal", "animal"]),
    ("pig", ["piglet"], ["farm animal", "animal"]),
    ("rabbit", ["bunny"], ["animal"]),
    ("frog", [], ["amphibian", "animal"]),
    ("penguin", [], ["bird", "animal"]),
    ("owl", [], ["bird", "animal"]),
    ("elephant", [], ["mammal", "animal"]),
    ("fish", [], ["animal"]),
    ("butterfly", ["butterflies"], ["insect", "animal"]),
    ("bee", ["honeybee"], ["insect", "animal"]),
    ("turtle", [], ["reptile", "animal"]),
    ("apple", ["red apple"], ["fruit", "food"]),
    ("tomato", ["tomatoes"], ["fruit", "vegetable", "food"]),
    ("cherries", ["cherry", "red cherries"], ["fruit", "food"]),
    ("strawberry", ["strawberries"], ["berry", "fruit", "food"]),
    ("banana", [], ["fruit", "food"]),
    ("pineapple", [], ["fruit", "food"]),
    ("watermelon", [], ["fruit", "food"]),
    ("lemon", [], ["citrus", "fruit", "food"]),
    ("rose", ["red rose"], ["flower", "plant"]),
    ("tulip", [], ["flower", "plant"]),
    ("sunflower", [], ["flower", "plant"]),
    ("cactus", ["cacti"], ["plant"]),
    ("car", ["automobile"], ["vehicle"]),
    ("bus", ["buses"], ["vehicle"]),
    ("truck", ["delivery truck", "lorry"], ["vehicle"]),
    ("bicycle", ["bike"], ["vehicle"]),
    ("airplane", ["plane"], ["vehicle"]),
    ("pizza", [], ["food"]),
    ("house", ["home"], ["building"]),
    ("umbrella", ["parasol"], ["thing", "object"]),
]

SIBLINGS = [
    ("animal", "dog cat fox wolf bear panda lion tiger horse cow pig rabbit frog elephant turtle"),
    ("bird", "penguin owl"),
    ("insect", "butterfly bee"),
    ("fruit", "apple tomato cherries strawberry banana pineapple watermelon lemon"),
    ("plant", "rose tulip sunflower cactus"),
    ("vehicle", "car bus truck bicycle airplane"),
    ("food", "pizza"),
    ("building", "house"),
    ("thing", "umbrella"),
]


def _names(noun: Noun) -> tuple[str, ...]:
    return (noun.word, *noun.synonyms)


def _written_keys(file_name: str) -> list[str]:
    path = Path(word_tables.__file__).parent / file_name
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[0] for line in lines if not line.startswith("#")][1:]


# The shipped rows


def test_the_noun_table_has_about_two_thousand_rows() -> None:
    assert 1800 <= len(nouns()) <= 2300


def test_the_style_table_has_about_a_hundred_and_twenty_rows() -> None:
    assert 100 <= len(styles()) <= 150


@pytest.mark.parametrize("file_name", ["nouns.tsv", "styles.tsv"])
def test_the_rows_are_sorted_and_none_is_there_twice(file_name: str) -> None:
    keys = _written_keys(file_name)
    assert keys == sorted(set(keys))


def test_no_name_stands_for_two_nouns() -> None:
    uses = Counter(name for noun in nouns().values() for name in _names(noun))
    assert [name for name, count in uses.items() if count > 1] == []


def test_no_name_stands_for_two_styles() -> None:
    uses = Counter(name for style in styles().values() for name in (style.name, *style.synonyms))
    assert [name for name, count in uses.items() if count > 1] == []


def test_every_word_is_plain_lower_case_english() -> None:
    words = {word for noun in nouns().values() for word in (*_names(noun), *noun.hypernyms)}
    assert [word for word in words if not re.fullmatch(r"[a-z][a-z' -]*[a-z]", word)] == []


def test_every_style_name_is_plain_lower_case_english() -> None:
    words = {word for style in styles().values() for word in (style.name, *style.synonyms)}
    assert [word for word in words if not re.fullmatch(r"[a-z0-9]+([ '-][a-z0-9]+)*", word)] == []


def test_every_noun_has_a_known_category_and_a_hypernym() -> None:
    assert {noun.category for noun in nouns().values()} == set(CATEGORIES)
    assert [noun.word for noun in nouns().values() if not noun.hypernyms] == []


def test_every_style_has_a_known_category() -> None:
    assert {style.category for style in styles().values()} == set(STYLE_CATEGORIES)


def test_no_noun_is_its_own_hypernym() -> None:
    assert [n.word for n in nouns().values() if set(n.hypernyms) & set(_names(n))] == []


def test_no_cell_repeats_a_word() -> None:
    for noun in nouns().values():
        assert len(set(noun.hypernyms)) == len(noun.hypernyms), noun
        assert len(set(noun.synonyms)) == len(noun.synonyms), noun


def test_a_hypernym_brings_its_own_hypernyms_along() -> None:
    broken = [
        (noun.word, general)
        for noun in nouns().values()
        for general in noun.hypernyms
        if general in nouns() and not set(nouns()[general].hypernyms) <= {*noun.hypernyms, "thing"}
    ]
    assert broken == []


@pytest.mark.parametrize(("word", "other_names", "broader"), DEMO_OBJECTS)
def test_a_demo_object_is_there_with_its_names_and_hypernyms(
    word: str, other_names: list[str], broader: list[str]
) -> None:
    assert word in nouns()
    for name in other_names:
        assert find_noun(name) == nouns()[word]
        assert same_thing(name, word)
    for general in broader:
        assert is_hypernym(general, word)
        assert not is_hypernym(word, general)


@pytest.mark.parametrize(("category", "words"), SIBLINGS)
def test_demo_objects_of_one_kind_are_siblings(category: str, words: str) -> None:
    assert {nouns()[word].category for word in words.split()} == {category}


def test_no_demo_object_is_the_same_thing_as_another() -> None:
    words = [word for word, _, _ in DEMO_OBJECTS]
    assert [(a, b) for a in words for b in words if a != b and same_thing(a, b)] == []


@pytest.mark.parametrize(
    "general", ["animal", "fruit", "plant", "vehicle", "food", "flower", "bird"]
)
def test_a_general_word_can_itself_be_a_stand_in(general: str) -> None:
    assert general in nouns()


@pytest.mark.parametrize(
    ("name", "style", "category"),
    [
        ("cartoon", "cartoon", "illustration"),
        ("flat design", "flat", "digital"),
        ("3D render", "3d", "digital"),
        ("pencil sketch", "sketch", "medium"),
        ("ukiyo-e", "ukiyo-e", "movement"),
        ("Vincent van Gogh", "van gogh", "artist"),
        ("photorealistic", "photo-realistic", "photography"),
    ],
)
def test_a_style_is_found_by_each_of_its_names(name: str, style: str, category: str) -> None:
    found = find_style(name)
    assert found is not None
    assert (found.name, found.category) == (style, category)


# The questions


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("Dog", "dog"),
        ("  dogs ", "dog"),
        ("a puppy", "dog"),
        ("puppies", "dog"),
        ("knives", "knife"),
        ("the red  apples", "apple"),
        ("glasses", "glasses"),
        ("glass", "glass"),
        ("geese", "goose"),
    ],
)
def test_a_noun_is_found_in_any_case_by_synonym_or_in_plural(asked: str, found: str) -> None:
    noun = find_noun(asked)
    assert noun is not None
    assert noun.word == found


@pytest.mark.parametrize("asked", ["", "  ", "a", "qwertyuiop", "freedom", "s", "us"])
def test_a_word_that_is_no_drawable_noun_is_not_found(asked: str) -> None:
    assert find_noun(asked) is None


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("dog", "puppy", True),
        ("rose", "roses", True),
        ("red apple", "apple", True),
        ("kitten", "a big cat", True),
        ("van gogh", "vincent van gogh", True),
        ("pencil sketch", "sketch", True),
        ("gizmo", "gizmos", True),
        ("hot dog", "dog", True),
        ('"dog"', "dog", True),
        ("dog!", "puppy", True),
        ("dog/cat", "cat", True),
        ("dog-cat", "dog", True),
        ("dog_cat", "cat", True),
        ("cat, owl", "owl", True),
        ("cat2", "cat", True),
        ("t-shirt", "tee shirt", True),
        ("yo-yo", "yoyo", True),
        ("dog", "fox", False),
        ("dog", "animal", False),
        ("apple", "pineapple", False),
        ("car", "carpet", False),
        ("glass", "glasses", False),
        ("ring", "finger", False),
        ("", "dog", False),
        ("", "", False),
    ],
)
def test_two_words_are_the_same_thing_or_not_either_way_round(a: str, b: str, same: bool) -> None:
    assert same_thing(a, b) is same
    assert same_thing(b, a) is same


@pytest.mark.parametrize(
    ("general", "word", "broader"),
    [
        ("animal", "dog", True),
        ("Animals", "puppies", True),
        ("beast", "puppy", True),
        ("vehicle", "a blue car", True),
        ("automobile", "taxi", True),
        ("thing", "gizmo", True),
        ("object", "dog", True),
        ("dog", "animal", False),
        ("dog", "dog", False),
        ("dog", "puppy", False),
        ("fruit", "dog", False),
        ("thing", "object", False),
        ("gizmo", "dog", False),
        ("animal", "gizmo", False),
        ("", "dog", False),
        ("thing", "", False),
    ],
)
def test_a_word_is_broader_than_another_or_not(general: str, word: str, broader: bool) -> None:
    assert is_hypernym(general, word) is broader


# Damaged files


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "has no header"),
        (b"word\tcategory\n", "has no header"),
        (b"noun\thypernyms\tsynonyms\tcategory\ndog\tanimal\n", "has 2 columns, expected 4"),
        (b"\xff\xfe", "can't be read"),
        (None, "can't be read"),
    ],
)
def test_a_damaged_table_is_refused_with_its_path(
    content: bytes | None, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "nouns.tsv").write_bytes(content)
    monkeypatch.setattr(word_tables, "_FOLDER", tmp_path)
    with pytest.raises(BadFile, match=complaint) as caught:
        nouns.__wrapped__()
    assert "nouns.tsv" in str(caught.value)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("dog", "a Dog!", True),
        ("dog", "dogs", True),
        ("dog", "puppy", False),
        ("dog", "hot dog", False),
        ("glass", "glasses", False),
        ("gizmo", "gizmos", True),
    ],
)
def test_the_same_words_are_no_synonyms(a: str, b: str, same: bool) -> None:
    assert same_words(a, b) is same
    assert same_words(b, a) is same


@pytest.mark.parametrize(
    ("phrase", "name", "inside"),
    [
        ("a dog house", "dog", True),
        ("the dogs, sitting", "dog", True),
        ("doghouse", "dog", False),
        ("a hot dog", "dog house", False),
        ("dog", "", False),
    ],
)
def test_a_phrase_holds_a_name_as_whole_words(phrase: str, name: str, inside: bool) -> None:
    assert holds(phrase, name) is inside


@pytest.mark.parametrize(
    ("plural", "singular"),
    [("dogs", "dog"), ("foxes", "fox"), ("cherries", "cherry"), ("dog", None), ("bus", None)],
)
def test_the_singular_of_a_plural_is_found(plural: str, singular: str | None) -> None:
    assert singular_of(plural) == singular


def test_words_that_are_broader_than_many_nouns_are_general() -> None:
    assert all(is_general(word) for word in ("animal", "vehicle", "tool", "food", "fruit"))
    assert not any(is_general(word) for word in ("dog", "bear", "bus", "hammer", "qwertyuiop"))
