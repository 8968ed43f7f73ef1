"""All towers of a model as one text encoder: what it knows, and what tells it from another."""

import pytest
import torch
from tiny_model import UNKNOWN, text_encoder_weights, tiny_encoder, tower_of

from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import token_ids

PROMPTS = torch.cat([token_ids(text) for text in ("", "a photo of a dog")])


@pytest.mark.parametrize(
    ("word", "known"),
    [("dog", True), ("Dog", True), ("highly detailed", True), (UNKNOWN, False), ("", False),
     (f"dog {UNKNOWN}", False)],
)  # fmt: skip
def test_a_word_is_known_if_all_its_pieces_have_vectors(word: str, known: bool) -> None:
    assert tiny_encoder().knows(word) is known


def test_one_tower_conditions_the_picture_with_its_states_alone() -> None:
    encoder = tiny_encoder()
    found = encoder.condition(PROMPTS)
    assert torch.equal(found.tokens, encoder.towers[0].encode(PROMPTS))
    assert found.pooled is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_have_the_fingerprint_of_their_float32_values(dtype: torch.dtype) -> None:
    halves = {name: value.to(dtype) for name, value in text_encoder_weights().items()}
    wide = {name: value.float() for name, value in halves.items()}
    held, full, other = (
        TextEncoder([tower_of(weights)]).fingerprint()
        for weights in (halves, wide, text_encoder_weights())
    )
    assert held == full
    assert held != other
