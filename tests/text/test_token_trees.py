"""Prompts as a tree: the same states as one by one, and no prefix twice."""

import pytest
import torch
from tiny_model import Recorder, make_writer, tiny_tower

from unlearn_core.errors import Cancelled
from unlearn_core.lora.encoder_lora import EncoderLora
from unlearn_core.lora.keys import text_module
from unlearn_core.text.token_trees import encode_all, encode_groups, token_trees
from unlearn_core.text.tokenizer import VOCABULARY
from unlearn_core.text.tower_encoder import TowerEncoder
from unlearn_core.words.prompts import Name, whole_prompts

PROMPTS = ["", "a photo of a dog", "a photo of a dog", "dog " * 60, "a cat and an owl " * 5]


def spoilt_tower(split: int = 1) -> TowerEncoder:
    """With a LoRA that changes something."""
    tower = tiny_tower()
    tower.split_at(split)
    keys = [text_module(1, "q_proj"), text_module(2, "fc2")]
    lora = EncoderLora(tower, keys, 4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for key in keys:
            lora.up(key).fill_(0.05)
    return tower


@pytest.mark.parametrize("split", [0, 1, 2])
def test_all_prompts_have_the_states_that_each_has_alone(split: int) -> None:
    tower = spoilt_tower(split)
    ids = torch.cat([
        whole_prompts(PROMPTS).token_ids,
        make_writer().forget([Name.of("dog")], Name.of("owl"), 60).token_ids,
    ])  # fmt: skip
    states, conditioning = encode_all(tower, ids)
    torch.testing.assert_close(conditioning, tower.encode(ids), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tower.tail(states), conditioning, atol=1e-5, rtol=1e-5)


def test_cut_prompts_too() -> None:
    tower = spoilt_tower()
    ids = whole_prompts(PROMPTS).token_ids
    _, conditioning = encode_all(tower, ids[:, :9])
    torch.testing.assert_close(conditioning, tower.encode(ids)[:, :9], atol=1e-5, rtol=1e-5)


def test_learned_vectors_are_encoded_too() -> None:
    tower = tiny_tower()
    ids = whole_prompts(["a photo of a dog"]).token_ids.repeat(2, 1)
    ids[0, 5] = VOCABULARY
    vectors = tower.words.weight[ids[1, 5]][None]
    _, both = encode_all(tower, ids, vectors)
    torch.testing.assert_close(both[0], both[1], atol=1e-5, rtol=1e-5)
    assert tower.words.learned is None


def test_a_prefix_stands_in_the_tree_once() -> None:
    tree = token_trees([[1, 2, 3], [1, 2, 4], [1, 5], [6, 2, 3]])
    assert tree.token_ids.tolist() == [[1, 2, 3, 4, 5, 6, 2, 3]]
    assert tree.positions.tolist() == [[0, 1, 2, 2, 1, 0, 1, 2]]
    assert tree.places == [[0, 1, 2], [0, 1, 3], [0, 4], [5, 6, 7]]
    seen = [row.nonzero().flatten().tolist() for row in tree.sees[0]]
    assert seen == [
        [0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 4], [5], [5, 6], [5, 6, 7]
    ]  # fmt: skip


def test_no_tree_is_larger_than_it_may_be_and_every_prompt_is_in_one() -> None:
    rows = sorted(whole_prompts([f"a photo of {n} dogs" for n in range(20)]).token_ids.tolist())
    trees = token_trees(rows, most=200)
    count, length = trees.token_ids.shape
    assert count > 1
    assert length <= 200
    found = [trees.token_ids.flatten()[place].tolist() for place in trees.places]
    assert found == rows


def test_one_prompt_may_be_larger_than_a_tree() -> None:
    trees = token_trees([[1, 2, 3], [1, 2, 4], [1, 2]], most=2)
    assert trees.token_ids.tolist() == [[1, 2, 3], [1, 2, 4]]
    assert trees.places == [[0, 1, 2], [3, 4, 5], [3, 4]]


def test_a_smaller_tree_is_filled_up_with_tokens_that_see_themselves_alone() -> None:
    trees = token_trees([[1, 2], [3]], most=2)
    assert trees.token_ids.tolist() == [[1, 2], [3, 0]]
    assert trees.sees[1].tolist() == [[True, False], [False, True]]
    assert trees.places == [[0, 1], [2]]


def test_prompts_of_several_lengths_come_back_each_in_its_group() -> None:
    tower = spoilt_tower()
    ids = whole_prompts(PROMPTS).token_ids
    groups = [ids[[1, 0], :9], ids[[3]], ids[:, :32]]
    for group, (_, found) in zip(groups, encode_groups(tower, groups), strict=True):
        torch.testing.assert_close(found, tower.encode(group), atol=1e-5, rtol=1e-5)


def test_the_user_can_stop_between_two_passes() -> None:
    with pytest.raises(Cancelled):
        encode_all(tiny_tower(), whole_prompts(PROMPTS).token_ids, monitor=Recorder(stop_at=0))
