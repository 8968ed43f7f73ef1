"""Noising, epsilon against v, and the draws of timesteps."""

import pytest
import torch
from tiny_model import TinyModel, draw

from unlearn_core.models.families import Prediction
from unlearn_core.models.noise import (
    add_noise,
    draw_timesteps,
    signal_and_noise_rates,
    split_prediction,
    training_target,
)

ALPHAS = TinyModel().alphas_cumprod
T = torch.tensor([0, 1, 500, 999])
CLEAN, NOISE = draw(4, 4, 2, 2), draw(4, 4, 2, 2, seed=1)


def test_the_rates_are_those_of_the_timestep_and_their_squares_sum_to_one() -> None:
    signal, sigma = signal_and_noise_rates(ALPHAS, T)
    assert signal.shape == sigma.shape == (4, 1, 1, 1)
    torch.testing.assert_close(signal.flatten() ** 2, ALPHAS[T])
    torch.testing.assert_close(signal**2 + sigma**2, torch.ones(4, 1, 1, 1))


def test_noising_by_hand() -> None:
    alphas = torch.full((1000,), 0.64)
    one = torch.ones(1, 4, 1, 1)
    t = torch.tensor([3])
    torch.testing.assert_close(add_noise(2 * one, one, t, alphas), 2.2 * one)
    torch.testing.assert_close(training_target(2 * one, one, t, alphas, "v"), -0.4 * one)
    assert torch.equal(training_target(2 * one, one, t, alphas, "epsilon"), one)


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_a_perfect_prediction_gives_back_picture_and_noise(prediction: Prediction) -> None:
    noisy = add_noise(CLEAN, NOISE, T, ALPHAS)
    target = training_target(CLEAN, NOISE, T, ALPHAS, prediction)
    clean, noise = split_prediction(target, noisy, T, ALPHAS, prediction)
    torch.testing.assert_close(clean, CLEAN, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(noise, NOISE, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_any_prediction_explains_the_noisy_picture(prediction: Prediction) -> None:
    noisy, output = draw(4, 4, 2, 2, seed=2), draw(4, 4, 2, 2, seed=3)
    clean, noise = split_prediction(output, noisy, T, ALPHAS, prediction)
    torch.testing.assert_close(add_noise(clean, noise, T, ALPHAS), noisy, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000, 1500])
def test_timesteps_are_drawn_one_in_each_part(count: int) -> None:
    for seed in range(20):
        t = draw_timesteps(count, torch.Generator().manual_seed(seed))
        assert t.dtype == torch.int64
        assert t.shape == (count,)
        low = torch.arange(count) * 1000 / count
        assert bool((t >= low.floor()).all())
        assert bool((t <= (low + 1000 / count).clamp(max=999)).all())


def test_every_timestep_is_drawn_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    t = torch.cat([draw_timesteps(3, generator) for _ in range(4000)])
    assert int(t.min()) < 5
    assert int(t.max()) > 994
    counts = torch.histc(t.float(), 10, 0, 1000)
    assert float(counts.min()) > 1050
    assert float(counts.max()) < 1350


def test_timesteps_come_from_the_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (draw_timesteps(8, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)
