"""Prompts to forget and to keep, and the alignment of two prompts."""

from typing import Any

import pytest
import torch
from tiny_model import make_writer

from unlearn_core.concept import Kind
from unlearn_core.text.tokenizer import (
    BOS,
    CHUNK,
    EOS,
    PAD,
    PIECES,
    VOCABULARY,
    token_ids,
    tokenize,
)
from unlearn_core.words.prompt_templates import GUARD_PROMPTS
from unlearn_core.words.prompt_writer import PromptWriter, Surroundings, spellings
from unlearn_core.words.prompts import (
    OWN_STATE,
    ROLE_BOS,
    ROLE_CONCEPT,
    ROLE_EOS,
    ROLE_PAD,
    ROLE_WORD,
    FilledTemplate,
    Name,
    Prompts,
    align,
    fill,
    make_prompts,
    pair_prompts,
    whole_prompts,
)

OWN = OWN_STATE
LEARNED = Name("<learned>", (VOCABULARY, VOCABULARY + 1), True)
KINDS: list[tuple[Kind, bool]] = [
    (kind, varied) for kind in ("object", "style", "person", "unsafe") for varied in (True, False)
]


@pytest.mark.parametrize(
    ("name", "concept", "other", "expected"),
    [
        # (span, end) of both prompts; the sources up to where pads stand on themselves
        ("same length", ((3, 4), 6), ((3, 4), 6), [OWN, OWN, OWN, 3, 4, 5, 6]),
        ("shorter stand-in", ((2, 5), 6), ((2, 3), 4), [OWN, OWN, 2, 2, 2, 3, 4]),
        ("shorter by one", ((2, 4), 5), ((2, 3), 4), [OWN, OWN, 2, 2, 3, 4]),
        ("longer stand-in", ((2, 3), 4), ((2, 5), 6), [OWN, OWN, 2, 5, 6, 7, 7, 7]),
        ("two on three", ((2, 4), 5), ((2, 5), 6), [OWN, OWN, 2, 3, 5, 6, 7, 7]),
        ("first position", ((1, 2), 3), ((1, 2), 3), [OWN, 1, 2, 3]),
        ("alone", ((1, 2), 2), ((1, 3), 3), [OWN, 1, 3, 4, 4]),
        ("another article", ((3, 4), 5), ((2, 3), 4), [OWN, OWN, OWN, 2, 3, 4]),
        ("no room for pads", ((1, 3), 76), ((1, 3), 76), [OWN, *range(1, 77)]),
        ("concept at the end", ((74, 76), 76), ((74, 75), 75), [OWN] * 74 + [74, 74, 75]),
        ("stand-in without pads", ((1, 2), 75), ((1, 3), 76), [OWN, 1, *range(3, 77), 76]),
    ],
)
def test_two_prompts_are_aligned_by_hand(
    name: str, concept: Any, other: Any, expected: list[int]
) -> None:
    expected = expected + list(range(len(expected), CHUNK))
    assert align(*concept, *other) == expected, name


def check_rows(prompts: Prompts) -> None:
    """Every row has BOS, one EOS, pads behind it, and roles that say so."""
    ids, roles = prompts.token_ids, prompts.roles
    assert ids.shape == roles.shape == (len(prompts), CHUNK)
    assert ids.dtype == roles.dtype == torch.int64
    position = torch.arange(CHUNK).expand_as(ids)
    ends = prompts.ends[:, None]
    assert torch.equal(roles == ROLE_BOS, position == 0)
    assert torch.equal(ids == BOS, position == 0)
    assert torch.equal(roles == ROLE_EOS, position == ends)
    assert torch.equal(ids == EOS, position == ends)
    assert torch.equal(roles == ROLE_PAD, position > ends)
    assert bool((ids[position > ends] == PAD).all())
    between = (position > 0) & (position < ends)
    assert torch.equal((roles == ROLE_CONCEPT) | (roles == ROLE_WORD), between)


@pytest.mark.parametrize(("kind", "varied"), KINDS)
def test_forget_prompts_hold_the_concept_and_align_with_the_stand_in(
    kind: Kind, varied: bool
) -> None:
    names = [Name.of("dog", kind), Name.of("hot air balloon", kind), LEARNED]
    stand_in = Name.of("polar bear", kind)
    prompts = make_writer(kind, 1, varied).forget(names, stand_in, 150)
    assert len(prompts) == 150
    check_rows(prompts)
    for row in range(150):
        roles, ids = prompts.roles[row], prompts.token_ids[row]
        name = names[row % 3]
        assert tuple(ids[roles == ROLE_CONCEPT].tolist()) == name.ids
        around = ids[(roles != ROLE_CONCEPT) & (roles != ROLE_PAD)].tolist()
        assert not set(around) & set(stand_in.ids), prompts.texts[row]
        other = prompts.stand_in_ids[row].tolist()
        assert [i for i in other if i in stand_in.ids] == list(stand_in.ids)
        source = prompts.source[row].tolist()
        assert len(source) == CHUNK
        start = int((roles == ROLE_CONCEPT).int().argmax())
        assert source[:start] == [OWN_STATE] * start
        assert min(source[start:]) >= 1
        after = [p for p in range(start, CHUNK) if roles[p] in (ROLE_WORD, ROLE_EOS)]
        assert [other[source[p]] for p in after] == ids[after].tolist()
        spanned = [other[source[p]] for p in range(start, start + len(name.ids))]
        assert set(spanned) <= set(stand_in.ids)


@pytest.mark.parametrize(("kind", "varied"), KINDS)
def test_keep_prompts_are_sound(kind: Kind, varied: bool) -> None:
    names = [Name.of("owl", kind), Name.of("tree", kind)]
    prompts = make_writer(kind, 1, varied).keep(names, 60)
    check_rows(prompts)
    for row, text in enumerate(prompts.texts):
        assert names[row % 2].text in text
        assert "{" not in text


def test_guard_prompts_have_no_concept() -> None:
    prompts = whole_prompts(GUARD_PROMPTS)
    check_rows(prompts)
    assert prompts.texts[0] == ""
    assert prompts.ends[0] == 1
    assert not bool((prompts.roles == ROLE_CONCEPT).any())
    for row, text in zip(prompts.token_ids, GUARD_PROMPTS, strict=True):
        assert torch.equal(row[None], token_ids(text))


@pytest.mark.parametrize(
    "template", ["a photo of {it}, blue", "{it}", "{bare}, oil", "on a table, {it} and a cat"]
)
@pytest.mark.parametrize("word", ["dog", "apple", "hot air balloon", "dogs"])
def test_a_filled_template_is_tokenized_like_its_text(template: str, word: str) -> None:
    prompts = make_prompts([fill(template, Name.of(word))])
    assert torch.equal(prompts.token_ids, token_ids(prompts.texts[0]))


LONG = ", ".join(["cat"] * 60)


@pytest.mark.parametrize(
    "template",
    [f"{LONG}, {{it}}", f"{{it}}, {LONG}", f"{LONG}, {{it}}, {LONG}", f"a cat, {{it}}, {LONG}"],
)
@pytest.mark.parametrize(
    ("word", "other"),
    [("dog", "owl"), ("dog", "polar bear"), ("hot air balloon", "owl"), ("dogs", "owl")],
)
def test_a_long_prompt_is_cut_to_one_chunk_and_keeps_the_concept(
    template: str, word: str, other: str
) -> None:
    name, stand_in = Name.of(word), Name.of(other)
    prompts = pair_prompts([(fill(template, name), fill(template, stand_in))])
    check_rows(prompts)
    ids = prompts.token_ids[0]
    assert tuple(ids[prompts.roles[0] == ROLE_CONCEPT].tolist()) == name.ids
    row = prompts.stand_in_ids[0].tolist()
    assert [i for i in row if i in stand_in.ids] == list(stand_in.ids)
    ends = int(prompts.ends[0]), row.index(EOS)
    assert max(ends) == PIECES + 1
    start = int((prompts.roles[0] == ROLE_CONCEPT).int().argmax())
    behind = range(start + len(name.ids), ends[0] + 1)
    assert [row[prompts.source[0, p]] for p in behind] == ids[list(behind)].tolist()


def test_cutting_takes_the_end_first_and_then_the_beginning() -> None:
    whole = FilledTemplate(tuple(range(1, 51)), (60,), tuple(range(100, 150)), "")
    cut = whole.cut(0)
    assert (cut.before, cut.name, cut.after) == (whole.before, (60,), whole.after[:24])
    longer = FilledTemplate(tuple(range(100)), (60, 61), (7,), "").cut(3)
    assert (longer.before, longer.name, longer.after) == (tuple(range(30, 100)), (60, 61), ())
    assert FilledTemplate((1,), (2,), (3,), "").cut(5) == FilledTemplate((1,), (2,), (3,), "")


@pytest.mark.parametrize(
    ("word", "kind", "expected"),
    [
        ("dog", "object", "a dog"),
        ("apple", "object", "an apple"),
        ("Eiffel Tower", "object", "Eiffel Tower"),
        ("dogs", "object", "dogs"),
        ("glass", "object", "a glass"),
        ("octopus", "object", "an octopus"),
        ("iris", "object", "an iris"),
        ("hot air balloon", "object", "a hot air balloon"),
        ("impressionism", "style", "impressionism"),
        ("ada lovelace", "person", "ada lovelace"),
        ("knife", "unsafe", "a knife"),
    ],
)
def test_a_name_takes_the_right_article(word: str, kind: Kind, expected: str) -> None:
    name = Name.of(word, kind)
    assert fill("a photo of {it}!", name).text == f"a photo of {expected}!"
    assert fill("a photo of {bare}!", name).text == f"a photo of {word}!"
    assert name.ids == tuple(tokenize(word))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("dog", ("dogs",)),
        ("apple", ("apples", "appel", "aple")),
        ("tree", ("trees", "tre")),
        ("dogs", ("dosg", "dos")),
        ("hot dog", ("hot dogs",)),
        ("glass", ("glss",)),
    ],
)
def test_a_word_is_also_spelt_in_other_ways(word: str, expected: tuple[str, ...]) -> None:
    assert spellings(word) == expected


@pytest.mark.parametrize(("kind", "varied"), KINDS)
def test_the_same_seed_writes_the_same_prompts(kind: Kind, varied: bool) -> None:
    def texts(seed: int) -> tuple[str, ...]:
        writer = make_writer(kind, seed, varied)
        return writer.forget([Name.of("dog", kind)], Name.of("owl", kind), 30).texts

    state = torch.random.get_rng_state()
    assert texts(3) == texts(3)
    assert texts(3) != texts(4)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_plain_prompts_are_one_short_sentence_and_varied_ones_are_more() -> None:
    name, stand_in = Name.of("dog"), Name.of("owl")
    plain = make_writer(varied=False).forget([name], stand_in, 60)
    around = {text.replace("a dog", "{it}") for text in plain.texts}
    assert around == {"a photo of {it}", "a picture of {it}", "an image of {it}", "{it}"}
    varied = make_writer().forget([name], stand_in, 200)
    assert len(set(varied.texts)) > 60
    assert set(plain.texts) < set(varied.texts)
    assert int(varied.ends.max()) > 40
    assert any("cat" in text for text in varied.texts)
    assert any("mosaic" in text for text in varied.texts)


@pytest.mark.parametrize(("kind", "varied"), KINDS)
@pytest.mark.parametrize(
    "lacking", [{"nouns": ()}, {"nouns": ("cat",)}, {"styles": ()}, {"colors": ()},
                {"nouns": (), "styles": (), "colors": ()}, {"fillers": ()}],
)  # fmt: skip
def test_a_model_that_knows_few_words_gets_whole_prompts(
    kind: Kind, varied: bool, lacking: dict[str, Any]
) -> None:
    around: dict[str, Any] = {"nouns": ("cat", "car"), "styles": ("anime",), **lacking}
    writer = PromptWriter(kind, Surroundings(**around), torch.Generator().manual_seed(0), varied)
    for _ in range(40):
        template = writer.template()
        assert template.count("{") == 1
        assert "{it}" in template or "{bare}" in template
        assert ", ," not in template
