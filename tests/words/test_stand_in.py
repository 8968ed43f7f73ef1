"""What takes the concept's place."""

from collections.abc import Collection
from typing import Any

import pytest
import torch
from tiny_model import NOUNS, PEOPLE, STYLES, UNKNOWN, Recorder, TinyModel, tiny_encoder

from unlearn_core.concept import Concept, Kind
from unlearn_core.errors import BadConcept, Cancelled, WrongModel
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.word_tables import find_noun, is_hypernym, same_thing
from unlearn_core.words import stand_in
from unlearn_core.words.neighbours import SAME, Neighbourhood, look_around
from unlearn_core.words.stand_in import (
    Drawings,
    StandIn,
    candidates,
    choose_stand_in,
    read_drawings,
)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return tiny_encoder()


def choose(
    encoder: TextEncoder, concept: Concept, model: TinyModel | None = None, pictures: int = 0,
    monitor: Recorder | None = None,
) -> StandIn:  # fmt: skip
    around = look_around(encoder, concept)
    return choose_stand_in(encoder, concept, around, model, pictures, 0, monitor or Recorder())


def around_of(*words: str) -> Neighbourhood:
    return Neighbourhood(tuple((word, 0.5) for word in words), words, ())


def found(concept: Concept, *words: str) -> list[str]:
    return [word for word, _ in candidates(concept, around_of(*words))]


def test_the_users_word_is_taken(encoder: TextEncoder) -> None:
    choice = choose(encoder, Concept("dog", stand_in="rose"))
    assert (choice.word, choice.chosen_by, choice.drawn) == ("rose", "you", 0)
    assert -1 <= choice.cosine <= 1


def test_a_word_that_the_model_does_not_know_is_refused(encoder: TextEncoder) -> None:
    message = f"no word vector for the stand-in '{UNKNOWN}'. Choose a word that it draws, such as"
    with pytest.raises(BadConcept, match=message) as caught:
        choose(encoder, Concept("dog", stand_in=UNKNOWN))
    nearest = look_around(encoder, Concept("dog")).nearest(1)[0]
    assert nearest in str(caught.value)


@pytest.mark.parametrize("name", NOUNS)
def test_no_synonym_hypernym_or_kept_word_is_chosen(name: str, encoder: TextEncoder) -> None:
    concept = Concept(name)
    first = choose(encoder, concept).word
    for _ in range(3):
        word = choose(encoder, concept).word
        assert encoder.knows(word)
        assert not same_thing(word, name)
        assert not is_hypernym(word, name)
        assert not is_hypernym(name, word)
        assert word not in concept.keep
        concept = concept.replace(keep=(*concept.keep, word))
    assert first in concept.keep


@pytest.mark.parametrize(
    ("concept", "words", "expected"),
    [
        (Concept("dog"), ("cat", "car", "sword"), ["cat"]),
        (Concept("dog"), ("owl", "fish", "table"), ["owl", "fish"]),
        (Concept("animal"), ("dog", "cat"), []),
        (Concept("dog", keep=("Cat",)), ("cat", "fox"), ["fox"]),
        (Concept("zyzzyva"), ("cat", "car"), ["cat", "car"]),
        (Concept("van gogh", kind="style"), ("anime", "monet"), ["anime", "monet"]),
        (Concept("ada", kind="person"), ("cat", "doctor", "sword", "king"), ["doctor", "king"]),
        (Concept("king", kind="person"), ("queen", "cat"), ["queen"]),
        (Concept("sword", kind="unsafe"), ("gun", "rose", "cat"), ["rose", "cat"]),
        (Concept("nudity", kind="unsafe"), ("rose", "cat"), ["rose", "cat"]),
        (
            Concept("dagger", kind="unsafe"),
            ("knife", "paper airplane", "hat", "toy", "hammer", "bomb", "bear"),
            ["hammer", "hat", "paper airplane", "toy"],
        ),
        (Concept("nudity", kind="unsafe"), ("hat", "bra", "hammer"), ["hat", "hammer"]),
        (
            Concept("taylor swift", kind="person"),
            ("singer", "crowd", "robot", "woman", "house", "person"),
            ["woman", "singer", "robot", "person"],
        ),
        (Concept("santa claus", kind="person"), ("hamburger", "snowman"), ["snowman"]),
        (Concept("santa claus", kind="person"), ("hamburger",), ["hamburger"]),
        (Concept("lemon"), ("orange", "apple"), ["apple"]),
        (Concept("robot"), ("drawing", "photo", "guitar"), ["guitar"]),
        (Concept("painting"), ("drawing", "guitar"), ["drawing", "guitar"]),
    ],
)
def test_candidates_are_siblings_that_neither_are_nor_generalise_the_concept(
    concept: Concept, words: tuple[str, ...], expected: list[str]
) -> None:
    assert found(concept, *words) == expected


def test_the_neighbourhood_leaves_the_concepts_own_names_out(encoder: TextEncoder) -> None:
    around = look_around(encoder, Concept("dog", synonyms=("fox",)))
    for words in (around.known_nouns, around.nearest(500)):
        assert not {"dog", "fox", "puppy", "dogs"} & set(words)
        assert "wolf" in words
    assert not {"animal", "canine"} & set(around.nearest(500))
    assert set(STYLES) <= set(around.known_styles)
    assert all(encoder.knows(word) for word in (*around.known_nouns, *around.known_styles))
    cosines = [cosine for _, cosine in around.ranked]
    assert len(set(around.nearest(500))) == len(cosines)
    assert all(-1.001 <= cosine <= 1.001 for cosine in cosines)


def test_a_styles_neighbours_are_styles(encoder: TextEncoder) -> None:
    around = look_around(encoder, Concept("mosaic", kind="style"))
    assert "mosaic" not in around.nearest(500)
    assert set(around.nearest(500)) == set(around.known_styles)
    assert choose(encoder, Concept("mosaic", kind="style")).word in around.known_styles


def test_the_nearest_word_is_the_one_whose_states_are_alike(encoder: TextEncoder) -> None:
    twin = tiny_encoder()
    cat, wolf = (find_row(twin, word) for word in ("cat", "wolf"))
    with torch.no_grad():
        held = twin.towers[0].words.held
        held[wolf] = (held[wolf] + held[cat]) / 2
    around = look_around(twin, Concept("cat"))
    assert around.nearest(1) == ("wolf",)
    assert around.ranked[0][1] < SAME
    assert choose(twin, Concept("cat")).word == "wolf"


def test_a_word_that_is_the_same_to_the_model_is_neither_kept_nor_a_stand_in(
    encoder: TextEncoder,
) -> None:
    twin = tiny_encoder()
    cat, wolf = (find_row(twin, word) for word in ("cat", "wolf"))
    assert "wolf" in look_around(twin, Concept("cat")).known_nouns
    with torch.no_grad():
        held = twin.towers[0].words.held
        held[wolf] = held[cat] * 1.01
    around = look_around(twin, Concept("cat"))
    assert "wolf" not in around.nearest(500)
    assert "wolf" not in around.known_nouns
    assert choose(twin, Concept("cat")).word != "wolf"


def find_row(encoder: TextEncoder, word: str) -> int:
    from unlearn_core.text.tokenizer import tokenize

    (row,) = tokenize(word)
    return row


@pytest.mark.parametrize("name", ["taylor", "king", "dr strange"])
def test_a_person_is_replaced_by_a_person(name: str, encoder: TextEncoder) -> None:
    word = choose(encoder, Concept(name, kind="person")).word
    noun = find_noun(word)
    assert noun is not None
    assert noun.category == "person"
    assert word in {*PEOPLE} - {name}


def test_what_is_unsafe_is_not_replaced_by_its_like(encoder: TextEncoder) -> None:
    noun = find_noun(choose(encoder, Concept("sword", kind="unsafe")).word)
    assert noun is not None
    assert noun.category != "weapon"


def test_no_word_left_is_said(encoder: TextEncoder) -> None:
    with pytest.raises(BadConcept, match="No word was found to take the place of 'dog'"):
        choose_stand_in(encoder, Concept("dog"), around_of(), None, 0, 0, Recorder())


def test_where_no_sibling_is_known_another_word_stands_in(encoder: TextEncoder) -> None:
    choice = choose_stand_in(encoder, Concept("dog"), around_of("car"), None, 0, 0, Recorder())
    assert choice.word == "car"


@pytest.mark.parametrize(
    ("name", "near", "best"),
    [
        ("snowman", ("animal", "vehicle", "hammer", "plant"), "hammer"),
        ("hammer", ("food", "umbrella", "scissors"), "umbrella"),
        ("gizmo", ("fruit", "tool", "rose"), "rose"),
        ("gizmo", ("animal", "vehicle"), "animal"),
        ("apple", ("fruit salad", "lemon"), "lemon"),
    ],
)
def test_a_vague_word_gives_way_to_a_thing(name: str, near: tuple[str, ...], best: str) -> None:
    assert found(Concept(name), *near)[0] == best


def test_a_kind_of_a_candidate_gives_way_to_it() -> None:
    near = ("school bus", "ice cream truck", "fire truck", "bus", "truck", "airplane")
    assert found(Concept("car"), *near)[:3] == ["bus", "truck", "airplane"]
    assert found(Concept("car"), "school bus", "airplane") == ["school bus", "airplane"]


def test_a_part_of_a_body_stands_in_for_another_alone() -> None:
    assert found(Concept("robot"), "nose", "guitar") == ["guitar"]
    assert found(Concept("mouth"), "nose", "guitar")[0] == "nose"


def test_a_sibling_that_is_far_gives_way_to_a_near_word() -> None:
    around = Neighbourhood((("neon sign", -0.13), ("bicycle", 0.05)), ("bicycle",), ())
    assert candidates(Concept("robot"), around)[0][0] == "bicycle"
    around = Neighbourhood((("bomb", -0.05), ("rose", 0.05)), ("rose",), ())
    assert candidates(Concept("dagger"), around)[0][0] == "bomb"


@pytest.mark.parametrize("name", ["dog/cat", "dog & cat", "cat_dog", "dog, cat", '"dog" cat'])
def test_no_piece_of_a_name_stands_in_for_it_or_is_kept(name: str, encoder: TextEncoder) -> None:
    around = look_around(encoder, Concept(name))
    words = {word for word, _ in around.ranked} | {*around.known_nouns}
    assert words.isdisjoint({"dog", "cat"})
    assert "fox" in words


# What is drawn for a candidate


def draws(
    monkeypatch: pytest.MonkeyPatch, shown: dict[str, int], vague: Collection[str] = ()
) -> list[str]:
    tried: list[str] = []

    def read(_: Any, concept: Concept, word: str, *__: Any) -> Drawings:
        if word != concept.name:
            tried.append(word)
        return Drawings(shown.get(word, 4), 0.1 if word in vague else 0.4)

    monkeypatch.setattr(stand_in, "read_drawings", read)
    monkeypatch.setattr(stand_in, "TRIED", 3)
    return tried


@pytest.mark.parametrize(
    ("shown", "word", "tried"),
    [
        ({"cat": 0}, "cat", ["cat"]),
        ({"cat": 3, "fox": 0}, "fox", ["cat", "fox"]),
        ({"cat": 3, "fox": 1, "wolf": 0}, "wolf", ["cat", "fox", "wolf"]),
        ({"cat": 3, "fox": 1, "wolf": 2}, "fox", ["cat", "fox", "wolf"]),
        ({"cat": 1, "fox": 1, "wolf": 2}, "cat", ["cat", "fox", "wolf"]),
    ],
)
def test_a_candidate_that_draws_the_concept_gives_way_to_the_next(
    shown: dict[str, int], word: str, tried: list[str], encoder: TextEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked = draws(monkeypatch, shown)
    around = around_of("car", "cat", "fox", "wolf", "owl")
    choice = choose_stand_in(encoder, Concept("dog"), around, TinyModel(), 4, 0, Recorder())
    assert asked == tried
    assert (choice.word, choice.drawn, choice.drawn_as_concept) == (word, 4, shown[word])
    assert choice.chosen_by == "nearness"


def test_the_users_word_is_drawn_too_and_stays(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws(monkeypatch, {"animal": 4})
    choice = choose(encoder, Concept("dog", stand_in="animal"), TinyModel(), 4)
    assert (choice.word, choice.drawn, choice.drawn_as_concept) == ("animal", 4, 4)


@pytest.mark.parametrize("pictures", [0, 4])
def test_nothing_is_drawn_without_a_model_or_pictures(
    pictures: int, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = draws(monkeypatch, {})
    choice = choose(encoder, Concept("dog"), None if pictures else TinyModel(), pictures)
    assert (choice.drawn, choice.drawn_as_concept, asked) == (0, 0, [])


@pytest.mark.parametrize(
    ("shown", "vague", "word"),
    [
        ({"cat": 0, "fox": 0}, ["cat"], "fox"),
        ({"cat": 0, "fox": 1, "wolf": 2}, ["cat"], "fox"),
        ({"cat": 2, "fox": 1, "wolf": 1}, ["cat", "fox", "wolf"], "fox"),
    ],
)
def test_a_candidate_that_explains_little_of_its_own_pictures_gives_way_too(
    shown: dict[str, int], vague: list[str], word: str, encoder: TextEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    draws(monkeypatch, shown, vague)
    around = around_of("car", "cat", "fox", "wolf", "owl")
    choice = choose_stand_in(encoder, Concept("dog"), around, TinyModel(), 4, 0, Recorder())
    assert (choice.word, choice.drawn_as_concept) == (word, shown[word])


@pytest.mark.parametrize(
    ("name", "kind", "word"), [("zorp", "object", "fox"), ("dog", "object", "cat")]
)
def test_a_word_of_another_group_must_be_drawn_nearly_as_plainly_as_the_concept(
    name: str, kind: Kind, word: str, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    explained = {name: 0.4, "cat": 0.3, "fox": 0.4}
    monkeypatch.setattr(
        stand_in, "read_drawings", lambda _, __, word, *___: Drawings(0, explained[word])
    )
    around = around_of("cat", "fox")
    asked = Concept(name, kind=kind)
    choice = choose_stand_in(encoder, asked, around, TinyModel(), 4, 0, Recorder())
    assert choice.word == word


def test_where_no_word_will_do_one_that_mostly_shows_the_concept_is_the_last(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws(monkeypatch, {"cat": 2, "fox": 0, "wolf": 1}, ["fox", "wolf"])
    around = around_of("cat", "fox", "wolf")
    choice = choose_stand_in(encoder, Concept("dog"), around, TinyModel(), 4, 0, Recorder())
    assert choice.word == "fox"


def test_drawings_are_read_the_same_twice(encoder: TextEncoder) -> None:
    read = [read_drawings(encoder, Concept("dog"), "cat", TinyModel(), 5, 1) for _ in range(2)]
    assert read[0] == read[1]


def test_a_picture_shows_the_concept_if_that_explains_it_about_as_well_as_its_word(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    word, concept, empty = [1.0, 1.0, 1.0, 4.0], [0.9, 1.2, 1.4, 3.9], [2.0, 2.0, 2.0, 3.0]
    losses = iter([torch.tensor(each) for each in (word, concept, empty)])
    monkeypatch.setattr(stand_in, "denoising_losses", lambda *_: next(losses))
    read = read_drawings(encoder, Concept("dog"), "cat", TinyModel(), 4, 0)
    assert read.as_concept == 3
    assert read.explained == pytest.approx((0.5 + 0.5 + 0.5 - 1 / 3) / 4)


def test_it_stops_when_asked(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = draws(monkeypatch, {"cat": 1, "fox": 1})
    around = around_of("cat", "fox")
    with pytest.raises(Cancelled):
        choose_stand_in(encoder, Concept("dog"), around, TinyModel(), 4, 0, Recorder(stop_at=1))
    assert asked == ["cat"]


def test_a_unet_that_gives_no_numbers_chooses_nothing(encoder: TextEncoder) -> None:
    with pytest.raises(WrongModel, match="UNet gives numbers that are not finite"):
        choose(encoder, Concept("dog"), TinyModel(broken=True), 2)
