"""DDIM against diffusers' own, and noise that pairs pictures."""

import pytest
import torch
from tiny_model import WIDTH, TinyModel, draw
from torch import Tensor

from unlearn_core.errors import TrainingFailed, WrongModel
from unlearn_core.models import sampling
from unlearn_core.models.denoising import denoising_losses
from unlearn_core.models.families import Prediction
from unlearn_core.models.sampling import denoise, draw_pictures, paired_noise, steps_of
from unlearn_core.text.conditioning import Conditioning

TEXT, EMPTY = Conditioning(draw(2, 77, WIDTH)), Conditioning(draw(1, 77, WIDTH, seed=1))
NOISE = draw(2, 4, 8, 8, seed=2)


def by_diffusers(model: TinyModel, steps: int, guidance: float, spacing: str = "leading") -> Tensor:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, timestep_spacing=spacing,
        prediction_type={"v": "v_prediction", "epsilon": "epsilon"}[model.prediction],
    )  # fmt: skip
    torch.testing.assert_close(scheduler.alphas_cumprod, model.alphas_cumprod)
    scheduler.set_timesteps(steps)
    latents = NOISE
    for time in scheduler.timesteps:
        t = time.expand(2)
        with_text = model.predict(latents, t, TEXT)
        without = model.predict(latents, t, EMPTY.expand(2))
        output = without + guidance * (with_text - without)
        latents = scheduler.step(output, time, latents).prev_sample
    return latents


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
@pytest.mark.parametrize(("steps", "guidance"), [(20, 5.0), (10, 1.0), (7, 3.0), (1, 1.0)])
def test_latents_equal_those_of_diffusers(
    prediction: Prediction, steps: int, guidance: float
) -> None:
    model = TinyModel(prediction)
    expected = by_diffusers(model, steps, guidance)
    latents = denoise(model, TEXT, EMPTY, NOISE, steps, guidance)
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("asked", "taken"), [(20, 4), (4, 4), (2, 2), (1, 1)])
def test_a_distilled_model_is_drawn_from_the_last_timestep_without_guidance(
    asked: int, taken: int
) -> None:
    model = TinyModel("epsilon")
    expected = by_diffusers(model, taken, 1.0, "trailing")
    model.is_distilled = True
    latents = denoise(model, TEXT, EMPTY, NOISE, asked, 7.5)
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=1e-4)
    assert steps_of(model, asked) == taken


def test_without_guidance_the_empty_prompt_is_not_computed() -> None:
    model = TinyModel()
    seen = []
    predict = model.predict
    model.predict = lambda x, t, text: (seen.append(len(x)), predict(x, t, text))[1]  # type: ignore[method-assign]
    denoise(model, TEXT, EMPTY, NOISE, 3, 1)
    denoise(model, TEXT, EMPTY, NOISE, 3, 2.0)
    assert seen == [2, 2, 2, 4, 4, 4]


@pytest.mark.parametrize("part", ["text encoder", "UNet", "VAE"])
def test_what_is_not_finite_is_an_error_in_place_of_a_black_picture(part: str) -> None:
    model = TinyModel(broken=part == "UNet")
    text = TEXT.map(torch.clone)
    if part == "text encoder":
        text.tokens[1, 5, 3] = torch.inf
    if part == "VAE":
        model.decode_latents = lambda latents: latents * torch.nan  # type: ignore[method-assign]
    with pytest.raises(WrongModel, match=f"The model's {part} gives numbers that are not finite"):
        draw_pictures(model, text, EMPTY, NOISE, 2, 3.0)


def test_a_loss_that_is_not_a_number_is_an_error_and_never_a_verdict() -> None:
    with pytest.raises(TrainingFailed, match="predicts for the pictures is not a number"):
        denoising_losses(TinyModel(broken=True), NOISE, TEXT, (200, 700), 0)


def test_the_noise_depends_on_seed_and_index_only() -> None:
    state = torch.random.get_rng_state()
    assert paired_noise(5, 3, 64, 128).shape == (1, 4, 8, 16)
    assert torch.equal(paired_noise(5, 3, 64, 64), paired_noise(5, 3, 64, 64))
    draws = [paired_noise(s, i, 64, 64) for s, i in ((0, 0), (0, 1), (1, 0), (2**31 - 1, 0))]
    assert all(not torch.equal(a, b) for a in draws for b in draws if a is not b)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_pictures_are_the_same_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TinyModel()
    text = Conditioning(draw(5, 77, WIDTH))
    noise = torch.cat([paired_noise(0, i, 64, 64) for i in range(5)])
    many = EMPTY.expand(5)
    whole = draw_pictures(model, text, EMPTY, noise, 3)
    assert whole.shape == (5, 3, 64, 64)
    assert whole.dtype == torch.float32
    assert float(whole.abs().max()) <= 1
    monkeypatch.setattr(sampling, "BATCH", 2)
    calls = model.calls["decode_latents"]
    for empty in (EMPTY, many):
        torch.testing.assert_close(draw_pictures(model, text, empty, noise, 3), whole)
    assert model.calls["decode_latents"] == calls + 6
    alone = draw_pictures(model, text[3:4], EMPTY, noise[3:4], 3)
    torch.testing.assert_close(alone, whole[3:4])


def test_steps_are_reported_and_may_stop_the_drawing() -> None:
    steps: list[int] = []
    denoise(TinyModel(), TEXT, EMPTY, NOISE, 4, 5.0, steps.append)
    assert steps == [1, 2, 3, 4]

    def stop(step: int) -> None:
        if step == 2:
            raise KeyError

    model = TinyModel()
    with pytest.raises(KeyError):
        denoise(model, TEXT, EMPTY, NOISE, 4, 5.0, stop)
    assert model.calls["predict"] == 2


def test_drawing_keeps_no_gradient() -> None:
    text = TEXT.map(lambda tensor: tensor.clone().requires_grad_(True))
    assert not denoise(TinyModel(), text, EMPTY, NOISE, 2).requires_grad
