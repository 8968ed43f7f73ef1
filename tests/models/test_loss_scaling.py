"""Gradients that float16 can't hold reach the text all the same."""

from __future__ import annotations

import pytest
import torch
from tiny_model import draw
from torch import Tensor

from unlearn_core.errors import TrainingFailed
from unlearn_core.models.gradients import LossScaling

TEXT = draw(3, 16)
WEIGHT = draw(16, 8, seed=1)


def gradient(size: float, half: LossScaling, weight: Tensor = WEIGHT) -> Tensor:
    """At the text, of a float16 product whose output's gradient is `size` everywhere."""
    text = TEXT.clone().requires_grad_(True)
    output = half.at_text(text).half() @ weight.half()
    half.at_output(output.float()).backward(torch.full((3, 8), size))
    assert text.grad is not None
    return text.grad


@pytest.mark.parametrize("size", [1e-12, 1e-8, 1e-3, 1.0, 1e6])
def test_tiny_and_huge_gradients_pass_through_float16(size: float) -> None:
    exact = size * WEIGHT.half().float().sum(1).expand(3, -1)
    found = gradient(size, LossScaling(torch.float16))
    assert torch.allclose(found, exact, rtol=0.02, atol=float(exact.abs().max()) * 2e-3)
    assert found.dtype == torch.float32


def test_without_it_a_tiny_gradient_is_lost() -> None:
    assert not bool(gradient(1e-8, LossScaling(torch.float32)).any())


def test_no_gradient_at_all_stays_none() -> None:
    assert not bool(gradient(0.0, LossScaling(torch.float16)).any())


def test_an_overflow_is_said_rather_than_learned_from() -> None:
    with pytest.raises(TrainingFailed, match="left the range of float16"):
        gradient(1e-3, LossScaling(torch.float16), torch.full((16, 8), 60000.0))


def test_nothing_is_added_where_nothing_is_needed() -> None:
    text = TEXT.clone().requires_grad_(True)
    bfloat = LossScaling(torch.bfloat16)
    assert bfloat.at_text(text) is text
    half = LossScaling(torch.float16)
    with torch.no_grad():
        assert half.at_text(text) is text
        assert half.at_output(text) is text
