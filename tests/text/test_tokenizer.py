"""The tokenizer against transformers' own, and chunks as ComfyUI cuts them."""

import random
from pathlib import Path

import pytest
import torch

from unlearn_core.errors import BadConcept, BadFile
from unlearn_core.text import tokenizer
from unlearn_core.text.tokenizer import (
    BOS,
    CHUNK,
    EOS,
    PAD,
    VOCABULARY,
    pieces_of,
    strip_weights,
    token_ids,
    tokenize,
)

DOG = 1929
CHARACTERS = (
    "abcdefgh ijklm  nop'''\"!?.,:;()[]{}<>|-_#@0123456789éÉñßÇøİ\u0131\u017fKﬁ½²①ⅣΩяЖД"
    "あ漢字한글العربيةहिन्दी🐶👩‍🚀🏽\u200d\u0301\u00a0\u2003\x1c\x85\u2028\ufeff\t\n"
)
SENTENCES = [
    "",
    " ",
    "a photo of a dog",
    "A PHOTO of Vincent van Gogh's Starry Night, 1889!!!",
    "it's they're we've I'm he'll she'd don't '''s",
    "supercalifragilisticexpialidocious " * 40,
    "naïve café, Ångström, cafe\u0301",
    "犬の写真 фото собаки صورة كلب",
    "🐶🐕 👩‍🚀 🏽",
    "1234567890 3.14 50% $7 #1",
    "x<|endoftext|>y <|startoftext|> <|ENDOFTEXT|>",
    "a\tb\nc\r\nd\u00a0e",
]


def _random_sentences(count: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(CHARACTERS, k=draw.randrange(60))) for _ in range(count)]


def test_every_text_is_cut_as_transformers_cuts_it() -> None:
    transformers = pytest.importorskip("transformers")
    folder = Path(tokenizer.__file__).parent / "clip_vocabulary"
    # SD2's own pad token "!" would be cut out of the text; ComfyUI and the WebUI don't do that.
    theirs = transformers.CLIPTokenizerFast.from_pretrained(folder, pad_token="<|endoftext|>")
    for text in SENTENCES + _random_sentences(500):
        assert tokenize(text) == theirs(text, add_special_tokens=False)["input_ids"], repr(text)


@pytest.mark.parametrize("text", SENTENCES)
def test_a_text_cut_word_by_word_gives_the_same_pieces(text: str) -> None:
    rows = token_ids(text).tolist()
    assert all(len(row) == CHUNK and row[0] == BOS for row in rows)
    pieces = [piece for row in rows for piece in row if piece not in (BOS, EOS, PAD)]
    assert pieces == [piece for piece in tokenize(text) if piece not in (BOS, EOS, PAD)]


def test_a_short_prompt_is_one_row_padded_with_zero() -> None:
    row = token_ids("a dog")
    assert row.dtype == torch.int64
    assert row.tolist() == [[BOS, 320, DOG, EOS, *[0] * 73]]


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_prompt_is_begin_end_and_padding(text: str) -> None:
    assert token_ids(text).tolist() == [[BOS, EOS, *[PAD] * 75]]


@pytest.mark.parametrize(("words", "chunks"), [(74, 1), (75, 1), (76, 2), (150, 2), (151, 3)])
def test_a_long_prompt_takes_one_chunk_for_each_75_pieces(words: int, chunks: int) -> None:
    rows = token_ids("dog " * words)
    assert rows.shape == (chunks, CHUNK)
    assert int((rows == DOG).sum()) == words
    assert bool((rows[:, 0] == BOS).all())
    assert (rows == EOS).sum(dim=1).tolist() == [1] * chunks


def test_a_word_of_less_than_8_pieces_moves_to_the_next_chunk_whole() -> None:
    word = "dog,cat,dog,cat"
    assert len(pieces_of(word)) == 7
    first, second = token_ids("dog " * 70 + word).tolist()
    assert first[70:73] == [DOG, EOS, PAD]
    assert second[1:9] == [*pieces_of(word), EOS]


def test_a_word_of_8_pieces_or_more_is_cut_at_the_chunk_border() -> None:
    word = "dog,cat,dog,cat,"
    assert len(pieces_of(word)) == 8
    first, second = token_ids("dog " * 70 + word).tolist()
    assert first[71:] == [*pieces_of(word)[:5], EOS]
    assert second[1:5] == [*pieces_of(word)[5:], EOS]


def test_a_word_longer_than_a_chunk_fills_chunk_after_chunk() -> None:
    rows = token_ids("1" * 200).tolist()
    assert [row.index(EOS) - 1 for row in rows] == [75, 75, 50]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <v>", [320, 7, 8]),
        ("<v>, a", [7, 8, 267, 320]),
        ("<v> <v>", [7, 8, 7, 8]),
        ("(<v>)", [263, 7, 8, 264]),
        ("<w>", [9]),
        ("<v> <w>", [7, 8, 9]),
        ("a<v>b", None),
        ("<V>", None),
        ("v", None),
    ],
)
def test_a_placeholder_is_replaced_only_as_a_whole_word(
    text: str, expected: list[int] | None
) -> None:
    table = {"<v>": [7, 8], "<w>": [9]}
    wanted = tokenize(text) if expected is None else expected
    assert token_ids(text, table).tolist()[0][1 : 2 + len(wanted)] == [*wanted, EOS]


def test_a_longer_placeholder_wins_over_one_it_contains() -> None:
    table = {"my dog": [VOCABULARY], "dog": [VOCABULARY + 1]}
    assert token_ids("my dog dog", table)[0, 1:3].tolist() == [VOCABULARY, VOCABULARY + 1]


def test_learned_vectors_are_not_parted_by_a_chunk_border() -> None:
    ids = [VOCABULARY, VOCABULARY + 1]
    second = token_ids("dog " * 74 + "<v>", {"<v>": ids})[1].tolist()
    assert second[:4] == [BOS, *ids, EOS]


def test_an_empty_placeholder_is_refused() -> None:
    with pytest.raises(BadConcept, match="empty"):
        token_ids("a dog", {"": [1]})


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("dog", "dog"),
        ("", ""),
        ("(dog:1.4)", "dog"),
        ("(dog: .5 )", "dog"),
        ("(dog:-1)", "dog"),
        ("((dog))", "dog"),
        ("[dog]", "dog"),
        ("([dog]:1.2) runs", "dog runs"),
        ("(a (dog:1.2) runs:0.8)", "a dog runs"),
        (r"\(dog\)", "(dog)"),
        (r"dog \[1\]", "dog [1]"),
        ("a) b", "a) b"),
        ("(a", "a"),
        ("ratio 16:9", "ratio 16:9"),
        ("(a:b)", "a:b"),
        ("(1.2.3:1.2.3)", "1.2.3:1.2.3"),
        ("(" * 5000, ""),
        (")" * 5000, ")" * 5000),
        ("(:" + "1" * 100_000, ":" + "1" * 100_000),
    ],
)
def test_weights_and_brackets_are_taken_off(text: str, plain: str) -> None:
    assert strip_weights(text) == plain


def test_half_a_surrogate_pair_does_not_break_the_tokenizer() -> None:
    assert tokenize("a \ud800 b") == tokenize("a ? b")


def test_a_missing_vocabulary_says_to_install_again(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="install this pack again"):
        tokenizer._read_vocabulary(tmp_path)


def test_a_damaged_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}', "utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n", "utf-8")
    with pytest.raises(BadFile, match="damaged"):
        tokenizer._read_vocabulary(tmp_path)
