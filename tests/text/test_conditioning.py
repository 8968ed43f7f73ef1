"""What the UNet gets of prompts keeps its tensors together."""

from __future__ import annotations

import pytest
import torch
from tiny_model import draw

from unlearn_core.text.conditioning import Conditioning


@pytest.fixture(params=[False, True], ids=["tokens only", "with pooled"])
def three(request: pytest.FixtureRequest) -> Conditioning:
    """Of three prompts."""
    return Conditioning(draw(3, 77, 8), draw(3, 6, seed=1) if request.param else None)


def same(one: Conditioning, other: Conditioning) -> bool:
    return len(one.tensors) == len(other.tensors) and all(
        torch.equal(*pair) for pair in zip(one.tensors, other.tensors, strict=True)
    )


def test_all_of_it_is_the_tokens_and_the_pooled_vectors_where_there_are_some() -> None:
    tokens, pooled = draw(3, 77, 8), draw(3, 6, seed=1)
    (only,) = Conditioning(tokens).tensors
    both = Conditioning(tokens, pooled).tensors
    assert only is tokens
    assert both[0] is tokens
    assert both[1] is pooled


def test_it_is_as_long_as_there_are_prompts(three: Conditioning) -> None:
    assert len(three) == 3
    assert len(three[1:]) == 2


@pytest.mark.parametrize("rows", [slice(1, 3), [2, 0, 2], torch.tensor([2, 0, 2])], ids=type)
def test_rows_are_the_same_of_every_tensor(
    three: Conditioning, rows: slice | list[int] | torch.Tensor
) -> None:
    chosen = three[rows]
    assert len(chosen.tensors) == len(three.tensors)
    for tensor, whole in zip(chosen.tensors, three.tensors, strict=True):
        assert torch.equal(tensor, whole[rows])


def test_parts_put_together_are_the_whole(three: Conditioning) -> None:
    assert same(Conditioning.cat([three[:1], three[1:]]), three)
    assert not same(Conditioning.cat([three[1:], three[:1]]), three)


def test_one_prompt_is_expanded_without_copies(three: Conditioning) -> None:
    many = three[1:2].expand(4)
    assert same(many, three[[1, 1, 1, 1]])
    for tensor, whole in zip(many.tensors, three.tensors, strict=True):
        assert tensor.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


def test_as_many_prompts_as_wanted_stay_as_they_are(three: Conditioning) -> None:
    assert same(three.expand(3), three)


def test_a_change_reaches_every_tensor(three: Conditioning) -> None:
    doubled = three.map(lambda tensor: 2 * tensor)
    assert len(doubled.tensors) == len(three.tensors)
    for tensor, before in zip(doubled.tensors, three.tensors, strict=True):
        assert torch.equal(tensor, 2 * before)


def test_a_gradient_is_wanted_if_any_tensor_wants_one(three: Conditioning) -> None:
    assert not three.requires_grad
    for wanting in three.tensors:
        wanting.requires_grad_(True)
        assert three.requires_grad
        wanting.requires_grad_(False)


def test_families_are_not_mixed() -> None:
    tokens = torch.zeros(1, 77, 4)
    parts = [Conditioning(tokens), Conditioning(tokens, torch.zeros(1, 4))]
    with pytest.raises(ValueError, match="different families"):
        Conditioning.cat(parts)
