"""What a LoRA file says that it forgets: read, damaged, and hidden."""

from __future__ import annotations

import json

import pytest
import torch

from unlearn_core.errors import BadFile
from unlearn_core.lora.keys import text_module
from unlearn_core.lora.metadata import BASE_MODEL, PARTS, Forgotten, all_from_metadata, hide_words
from unlearn_core.lora.weights import LoraPair, LoraWeights

GOOD = {
    "unlearn_concept": "dog",
    "unlearn_kind": "object",
    "unlearn_names": '["dog", "puppy"]',
    "unlearn_synonyms": '["puppy"]',
    "unlearn_kept": '["cat", "fox"]',
    "unlearn_stand_in": "cat",
}
HASHED = {**GOOD, BASE_MODEL: "abc"}
LISTS = ("unlearn_names", "unlearn_synonyms", "unlearn_kept")
BROKEN = ("[1, 2]", "[null]", '"dog"', "7", "{}", "null", "nonsense", "[" * 100_000, '["", "a"]')


def test_what_a_run_wrote_is_read() -> None:
    said = Forgotten.from_metadata(GOOD)
    assert (said.names, said.kept, said.stand_in) == (("dog", "puppy"), ("cat", "fox"), "cat")
    assert said.concept.synonyms == ("puppy",)
    assert [part.names for part in all_from_metadata({PARTS: json.dumps([GOOD, GOOD])})] == [
        ("dog", "puppy")
    ] * 2


DAMAGED = [
    *({**GOOD, name: text} for name in LISTS for text in BROKEN if (name, text) not in {
        ("unlearn_synonyms", '["", "a"]'),  # an empty synonym is none
    }),
    *({**GOOD, "unlearn_concept": text} for text in ("", "x " * 5000)),
    *({**GOOD, "unlearn_stand_in": text} for text in ("", "x " * 5000)),
    {**GOOD, "unlearn_kind": "thing"},
    {**GOOD, "unlearn_kept": json.dumps(["cat"] * 100_000)},
    *({k: v for k, v in GOOD.items() if k != name} for name in GOOD if name != "unlearn_names"),
]  # fmt: skip


@pytest.mark.parametrize("metadata", DAMAGED)
def test_words_of_another_type_are_the_one_line(metadata: dict[str, str]) -> None:
    with pytest.raises(BadFile, match="does not say what it forgets"):
        all_from_metadata(metadata)
    with pytest.raises(BadFile, match="does not say"):
        all_from_metadata({PARTS: json.dumps([metadata])})


@pytest.mark.parametrize(
    "text",
    ["[1]", "[null]", "7", "[" * 100_000, '["dog"]', json.dumps([{**GOOD, "unlearn_concept": 7}])],
)
def test_parts_of_another_type_are_the_one_line(text: str) -> None:
    with pytest.raises(BadFile, match="does not say"):
        all_from_metadata({PARTS: text})


def lora(metadata: dict[str, str]) -> LoraWeights:
    pair = LoraPair(torch.ones(2, 8), torch.ones(8, 2), 2.0)
    return LoraWeights({text_module(22, "q_proj"): pair}, metadata)


@pytest.mark.parametrize(
    "metadata", [HASHED, {BASE_MODEL: "abc", PARTS: json.dumps([GOOD, GOOD])}], ids=["one", "joint"]
)
def test_no_word_of_a_concept_is_left_when_words_are_hidden(metadata: dict[str, str]) -> None:
    text = json.dumps(hide_words(lora(metadata)).metadata)
    for word in ("dog", "puppy", "cat", "fox"):
        assert word not in text


def test_the_same_word_has_one_hash_per_model_and_case_does_not_count() -> None:
    hidden = hide_words(lora(HASHED)).metadata
    assert json.loads(hidden["unlearn_names"])[0] == hidden["unlearn_concept"]
    other = hide_words(lora({**GOOD, BASE_MODEL: "xyz"})).metadata
    assert other["unlearn_concept"] != hidden["unlearn_concept"]
    upper = hide_words(lora({**HASHED, "unlearn_concept": "Dog"})).metadata
    assert upper["unlearn_concept"] == hidden["unlearn_concept"]


def test_hiding_words_leaves_the_lora_itself_alone() -> None:
    before = lora(dict(HASHED))
    hidden = hide_words(before)
    assert hidden.pairs == before.pairs
    assert hidden.metadata["unlearn_private"] == "True"
    assert before.metadata == HASHED
