"""The text encoder's weights at each strength, from a LoRA or from two encoders."""

from __future__ import annotations

import pytest
import torch

from unlearn_core.errors import WrongModel
from unlearn_core.measuring.evaluation import between

BEFORE = {"changed": torch.tensor([0.0, 2.0]), "same": torch.tensor([5.0]).half()}
AFTER = {"changed": torch.tensor([1.0, 0.0]), "same": torch.tensor([5.0]).half()}


@pytest.mark.parametrize(
    ("strength", "expected"), [(-1, [-1, 4]), (0, [0, 2]), (0.5, [0.5, 1]), (1, [1, 0])]
)
def test_strength_moves_along_the_line_through_two_encoders(
    strength: float, expected: list[float]
) -> None:
    weights = between(BEFORE, AFTER)(strength)
    assert weights["changed"].tolist() == expected
    assert weights["same"] is BEFORE["same"]


@pytest.mark.parametrize("other", [{}, {**AFTER, "changed": torch.zeros(3)}])
def test_encoders_of_two_models_are_refused(other: dict[str, torch.Tensor]) -> None:
    with pytest.raises(WrongModel, match="two different models"):
        between(BEFORE, other)
