"""What a LoRA file says that it forgets, and files that say it in a way that can't be read."""

from __future__ import annotations

import json

import pytest

from unlearn_core.errors import BadFile
from unlearn_core.forgetting.part import PARTS
from unlearn_core.measuring.forgotten import Forgotten, all_from_metadata

GOOD = {
    "unlearn_concept": "dog",
    "unlearn_kind": "object",
    "unlearn_names": '["dog", "puppy"]',
    "unlearn_synonyms": '["puppy"]',
    "unlearn_kept": '["cat", "fox"]',
    "unlearn_stand_in": "cat",
}
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
