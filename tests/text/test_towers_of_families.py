"""Each family's towers give what transformers' own models give, and the pooled vector with it."""

import pytest
import torch
from tiny_families import CONDITIONING, SIZES, family_encoder, family_weights
from torch import Tensor

from unlearn_core.models.families import SD1, SDXL
from unlearn_core.text.text_encoder import TextEncoder, weights_of
from unlearn_core.text.token_trees import encode_groups
from unlearn_core.text.tokenizer import EOS, PAD, VOCABULARY, token_ids
from unlearn_core.text.tower_encoder import end_positions

TEXTS = ("", "a photo of a dog", "dog, " * 37, "a cat!")
PROMPTS = torch.cat([token_ids(text) for text in TEXTS])
SAME = {"atol": 1e-5, "rtol": 1e-5}


def by_transformers(encoder: TextEncoder, number: int, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(states that condition the picture, pooled vector), from transformers' whole model."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    tower = encoder.towers[number].tower
    width, inner, layers = SIZES[tower.part]
    config = CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=inner, projection_dim=width,
        num_hidden_layers=layers, num_attention_heads=width // 64, hidden_act=tower.activation,
        eos_token_id=EOS, pad_token_id=tower.pad,
    )  # fmt: skip
    model = CLIPTextModelWithProjection(config).eval()
    weights = weights_of(tower, family_weights(SDXL if len(encoder.towers) == 2 else SD1))
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert set(missing) <= {"text_projection.weight", "text_model.embeddings.position_ids"}
    with torch.no_grad():
        found = model(ids, output_hidden_states=True)
    states = found.hidden_states[1 + CONDITIONING[tower.part]]
    if tower.normed:
        states = model.text_model.final_layer_norm(states)
    return states, found.text_embeds


def hosts_ids(pad: int) -> Tensor:
    """As a host pads them itself."""
    ids = PROMPTS.clone()
    for row, end in zip(ids, end_positions(PROMPTS), strict=True):
        row[end + 1 :] = pad
    return ids


def test_sd1_reads_its_last_layer_with_its_own_padding() -> None:
    encoder = family_encoder(SD1)
    expected, _ = by_transformers(encoder, 0, hosts_ids(EOS))
    found = encoder.condition(PROMPTS)
    torch.testing.assert_close(found.tokens, expected, **SAME)
    assert found.pooled is None
    wrong, _ = by_transformers(encoder, 0, hosts_ids(PAD))
    assert not torch.allclose(found.tokens, wrong, atol=1e-3)


def test_sdxl_puts_its_towers_side_by_side_and_pools_the_second() -> None:
    encoder = family_encoder(SDXL)
    first, _ = by_transformers(encoder, 0, hosts_ids(EOS))
    second, pooled = by_transformers(encoder, 1, hosts_ids(PAD))
    found = encoder.condition(PROMPTS)
    torch.testing.assert_close(found.tokens, torch.cat([first, second], -1), **SAME)
    torch.testing.assert_close(found.pooled, pooled, **SAME)


def test_what_stands_for_padding_inside_a_prompt_stays() -> None:
    tower = family_encoder(SD1).towers[0]
    ids = torch.tensor([[1, PAD, 2, EOS, PAD, PAD]])
    assert tower.padded(ids).tolist() == [[1, PAD, 2, EOS, EOS, EOS]]


@pytest.mark.parametrize("split", [0, 1, 2])
def test_a_tree_of_prompts_has_the_states_and_pooled_vectors_of_each_alone(split: int) -> None:
    for tower in family_encoder(SDXL).towers:
        tower.split_at(min(split, tower.conditioning_layer))
        ids = PROMPTS[[0, 1, 3]]
        cut = ids[:, :12]
        for group, (before, states) in zip(
            (ids, cut), encode_groups(tower, [ids, cut]), strict=True
        ):
            torch.testing.assert_close(states, tower.encode(group), **SAME)
            again = tower.tail(before, end_positions(group))
            torch.testing.assert_close(again, states, **SAME)
            assert states.shape[1] == group.shape[1] + tower.extra


def test_learned_vectors_are_split_among_the_towers() -> None:
    encoder = family_encoder(SDXL)
    ids = token_ids("a photo of a dog").repeat(2, 1)
    ids[0, 5] = VOCABULARY
    vectors = encoder.word_vectors([int(ids[1, 5])])
    found = encoder.condition(ids, vectors)
    torch.testing.assert_close(found[:1].tokens, found[1:].tokens, **SAME)
    torch.testing.assert_close(found[:1].pooled, found[1:].pooled, **SAME)


def test_many_prompts_at_once_are_conditioned_alike() -> None:
    encoder = family_encoder(SDXL)
    alone, together = encoder.condition(PROMPTS), encoder.condition_all(PROMPTS)
    for one, other in zip(alone.tensors, together.tensors, strict=True):
        torch.testing.assert_close(one, other, **SAME)


def test_a_fingerprint_is_of_both_towers_and_the_projection() -> None:
    encoder = family_encoder(SDXL)
    before = encoder.fingerprint()
    projection = encoder.towers[1].projection
    assert projection is not None
    projection[0, 0] += 1
    assert encoder.fingerprint() != before
