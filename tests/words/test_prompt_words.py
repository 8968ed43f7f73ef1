"""Prompts with embeddings and tags: what is replaced, and what the notes say of it."""

from __future__ import annotations

import pytest

from unlearn_core.errors import BadSettings
from unlearn_core.text.tokenizer import VOCABULARY, token_ids
from unlearn_core.words.prompt_words import notes_on_embeddings, prompt_ids, refuse_lora_tags

CAT, OK, TWO = "my cat (v1)", "emb-ok", "two words"
ROWS = {CAT: [VOCABULARY], OK: [VOCABULARY + 1, VOCABULARY + 2], TWO: [VOCABULARY + 3]}


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("a my cat (v1) here", "a <0> here"),
        (r"a my cat \(v1\) here", "a <0> here"),
        ("a (my cat (v1):1.3) here", "a <0> here"),
        ("a ((emb-ok)), oil", "a <1>, oil"),
        ("emb-ok", "<1>"),
        ("a (emb-ok:1.2) and two words.", "a <1> and <2>."),
        ("a embedding:emb-ok here", "a <1> here"),
        ("a (embedding:my cat (v1):0.5)", "a <0>"),
        ("a emb-ok_1", "a emb-ok_1"),
        ("a emb-ok2, Emb-OK", "a emb-ok2, Emb-OK"),
        ("a (dog:1.4)", "a dog"),
        ("a \U000f0000 dog", "a  dog"),
    ],
)
def test_an_embedding_is_found_as_it_is_written(prompt: str, plain: str) -> None:
    stand_ins = {f"<{number}>": rows for number, rows in enumerate(ROWS.values())}
    assert prompt_ids(prompt, ROWS).tolist() == token_ids(plain, stand_ins).tolist()


@pytest.mark.parametrize(
    ("prompts", "without"),
    [
        (["a my cat (v1) here", "emb-ok"], []),
        ([r"a my cat \(v1\) here"], [OK]),
        (["a emb-ok_1", "emb-ok2"], [CAT, OK]),
        (["my cat v1"], [CAT, OK]),
    ],
)
def test_the_note_is_about_what_was_replaced(prompts: list[str], without: list[str]) -> None:
    notes = list(notes_on_embeddings(prompts, [CAT, OK]))
    expected = [f"no prompt says {name!r}, so this embedding has no effect." for name in without]
    assert notes == expected


def test_an_embedding_that_is_asked_for_and_not_given_is_named() -> None:
    prompts = ["a embedding:emb-ok", "(embedding:other:1.2), embedding:emb-ok_1"]
    notes = list(notes_on_embeddings(prompts, [OK]))
    assert [note.split("'")[1] for note in notes] == ["embedding:emb-ok_1", "embedding:other:1.2"]
    assert list(notes_on_embeddings(["a embedding:x"], []))
    assert not list(notes_on_embeddings(["an embedding: a dog"], []))


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(BadSettings, match="empty"):
        prompt_ids("a dog", {" ": [VOCABULARY]})


@pytest.mark.parametrize("prompt", ["a <lora:dog:1>", "<LORA:x>", "a<lyco:a b:0.5:0.2>b"])
def test_tags_of_the_webui_are_refused(prompt: str) -> None:
    with pytest.raises(BadSettings, match=r"(?i)<l.*only the WebUI reads.*--lora"):
        refuse_lora_tags(prompt)


def test_other_signs_of_the_same_kind_are_words() -> None:
    for prompt in ("a <dog> here", "a <3 lora: dog>", "1 < 2"):
        refuse_lora_tags(prompt)
