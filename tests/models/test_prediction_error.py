"""The error of a prediction in parts is that of the whole, and only one part is held."""

from __future__ import annotations

import pytest
import torch
from tiny_model import WIDTH, TinyModel, draw
from torch import Tensor
from torch.nn import functional

from unlearn_core.models.denoising import prediction_error
from unlearn_core.text.conditioning import Conditioning

NOISY, TARGET, STEPS = draw(5, 4, 8, 8), draw(5, 4, 8, 8, seed=1), torch.arange(5) * 200


class Counting(TinyModel):
    """Remembers how many pictures came together."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def predict(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        self.batches.append(len(latents))
        return super().predict(latents, timesteps, text)


@pytest.mark.parametrize(("rows", "batches"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_value_and_gradient_are_those_of_the_whole(rows: int, batches: list[int]) -> None:
    model = Counting()
    word = draw(1, 1, WIDTH, seed=2).requires_grad_(True)
    text = Conditioning(draw(5, 77, WIDTH, seed=3) + word)
    expected = functional.mse_loss(TinyModel().predict(NOISY, STEPS, text), TARGET)
    (wanted,) = torch.autograd.grad(3 * expected, word, retain_graph=True)
    error = prediction_error(model, NOISY, STEPS, text, TARGET, rows)
    (found,) = torch.autograd.grad(3 * error, word)
    assert model.batches == batches
    assert float(error.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    torch.testing.assert_close(found, wanted)


class Pooled(TinyModel):
    """A UNet that takes a vector for each prompt too."""

    def _run_unet(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        assert text.pooled is not None
        output = super()._run_unet(latents, timesteps, text)
        return output * text.pooled.tanh()[:, :, None, None]


@pytest.mark.parametrize("rows", [1, 2])
def test_pooled_vectors_get_the_gradient_of_the_whole_too(rows: int) -> None:
    word = draw(1, 1, WIDTH, seed=2).requires_grad_(True)
    share = draw(1, 4, seed=4).requires_grad_(True)
    text = Conditioning(draw(5, 77, WIDTH, seed=3) + word, draw(5, 4, seed=5) + share)
    wanted, found = (
        torch.autograd.grad(
            prediction_error(Pooled(), NOISY, STEPS, text, TARGET, count),
            (word, share),
            retain_graph=True,
        )
        for count in (len(NOISY), rows)
    )
    assert all(bool(gradient.any()) for gradient in wanted)
    torch.testing.assert_close(found, wanted)


def test_a_prediction_that_is_no_number_shows_in_the_error() -> None:
    text = Conditioning(draw(5, 77, WIDTH, seed=3).requires_grad_(True))
    error = prediction_error(TinyModel(broken=True), NOISY, STEPS, text, TARGET, 2)
    assert not bool(error.isfinite())


def test_without_a_gradient_the_batch_stays_whole() -> None:
    model = Counting()
    with torch.no_grad():
        prediction_error(model, NOISY, STEPS, Conditioning(draw(5, 77, WIDTH)), TARGET, 2)
    assert model.batches == [5]
