"""A wrong gradient of a host's UNet is found before anything is trained with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_model import WIDTH, TinyModel, draw
from torch import Tensor

from unlearn_core.errors import TrainingFailed
from unlearn_core.models.gradients import check_gradient
from unlearn_core.text.conditioning import Conditioning

LATENTS, STEPS, TEXT = draw(1, 4, 8, 8, seed=1), torch.tensor([500]), draw(1, 77, WIDTH, seed=2)


def scale_gradient(text: Tensor, factor: float) -> Tensor:
    """The same text, whose gradient is multiplied on the way back."""
    same = text.clone()
    if same.requires_grad:
        same.register_hook(lambda gradient: gradient * factor)
    return same


FAULTS: dict[str, Any] = {
    "half of it": lambda text: scale_gradient(text, 0.5),
    "the wrong sign": lambda text: scale_gradient(text, -1.0),
    "nothing": lambda text: scale_gradient(text, 0.0),
    "not a number": lambda text: scale_gradient(text, float("nan")),
    "another direction": lambda text: text.detach() + (text.flip(1) - text.flip(1).detach()),
}


def predict(text: Tensor) -> Tensor:
    return TinyModel().predict(LATENTS, STEPS, Conditioning(text))


def test_a_right_gradient_passes() -> None:
    check_gradient(predict, TEXT, 0.01)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_wrong_gradient_is_refused(fault: Any) -> None:
    with pytest.raises(TrainingFailed, match="gradient is wrong"):
        check_gradient(lambda text: predict(fault(text)), TEXT, 0.3)
