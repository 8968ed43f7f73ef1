"""The terms of the loss that go through the UNet."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_model import TinyModel, make_settings, make_writer, pictures, tiny_encoder
from torch import Tensor

from unlearn_core.concept import Concept
from unlearn_core.forgetting.prompt_plan import LessonPlan
from unlearn_core.lora.encoder_lora import EncoderLora, chosen_modules
from unlearn_core.models.noise import add_noise, draw_timesteps, training_target
from unlearn_core.models.sampling import encode_pictures
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.training import picture_loss
from unlearn_core.training.picture_loss import BATCH, PictureLoss
from unlearn_core.words.prompts import Name

STEPS = 7


class Setup:
    """A LoRA that is not zero, on the tiny encoder, and a loss over it."""

    def __init__(self, unet_rows: int = BATCH, **changes: Any) -> None:
        settings = make_settings(**changes)
        self.model, self.encoder = TinyModel(), tiny_encoder()
        modules = chosen_modules(settings, self.encoder.last_used_layer)
        self.encoder.split_at(min(key.layer for key in modules))
        generator = torch.Generator().manual_seed(3)
        self.lora = EncoderLora(self.encoder, modules, settings.rank, generator)
        with torch.no_grad():
            for key in modules:
                self.lora.up(key).add_(0.1)
        plan = LessonPlan(
            Concept("dog"), (Name.of("dog"),), Name.of("cat"), (), ("car",), make_writer()
        )
        latents = encode_pictures(self.model, pictures())
        self.loss = PictureLoss(
            self.model, self.encoder, self.lora, latents, plan, None, settings, generator, unet_rows
        )
        self.settings, self.latents = settings, latents

    def losses(self) -> list[float]:
        return [float(self.loss(step).detach()) for step in range(STEPS)]

    def gradients(self) -> list[Tensor]:
        return list(torch.autograd.grad(self.loss(0), self.lora.parameters()))


def computed_at_use(setup: Setup) -> list[float]:
    """The same draws, with every target computed when it is needed."""
    loss, encoder, settings = setup.loss, setup.encoder, setup.settings
    batches, values = [], []
    for step in range(STEPS):
        if len(batches) < picture_loss.BANK or settings.objective == "ascent":
            rows = torch.randint(len(loss.prompts), (BATCH,), generator=loss.generator)
            chosen = torch.randint(len(setup.latents), (BATCH,), generator=loss.generator)
            clean = setup.latents[chosen]
            noise = torch.randn(clean.shape, generator=loss.generator)
            batches.append((rows, clean, noise, draw_timesteps(BATCH, loss.generator)))
        rows, clean, noise, t = batches[step % len(batches)]
        values.append(_at_use(setup, encoder, rows, clean, noise, t))
    return values


@torch.no_grad()
def _at_use(
    setup: Setup, encoder: TextEncoder, rows: Tensor, clean: Tensor, noise: Tensor, t: Tensor
) -> float:
    model, settings, prompts = setup.model, setup.settings, setup.loss.prompts
    noisy = add_noise(clean, noise, t, model.alphas_cumprod)
    predicted = model.predict(noisy, t, encoder.encode(prompts.token_ids[rows]))
    if settings.objective == "ascent":
        target = training_target(clean, noise, t, model.alphas_cumprod, model.prediction)
        return -settings.forget_weight * float((predicted - target).square().mean())
    with setup.lora.disabled():
        target = model.predict(noisy, t, encoder.encode(prompts.stand_in_ids[rows]))
    return settings.image_weight * float((predicted - target).square().mean())


@pytest.mark.parametrize("bank", [3, 64])
@pytest.mark.parametrize("objective", ["stand-in", "ascent"])
def test_the_losses_are_those_of_targets_computed_at_use(
    monkeypatch: pytest.MonkeyPatch, objective: str, bank: int
) -> None:
    monkeypatch.setattr(picture_loss, "BANK", bank)
    setup = Setup(objective=objective, image_weight=5.0)
    same = Setup(objective=objective, image_weight=5.0)
    expected = computed_at_use(same)
    assert setup.losses() == pytest.approx(expected, rel=1e-4)
    assert len(set(expected)) == (3 if (objective, bank) == ("stand-in", 3) else STEPS)


@pytest.mark.parametrize(("bank", "calls"), [(3, STEPS + 3), (64, STEPS + STEPS)])
def test_the_unchanged_model_is_asked_once_for_each_kept_batch(
    monkeypatch: pytest.MonkeyPatch, bank: int, calls: int
) -> None:
    monkeypatch.setattr(picture_loss, "BANK", bank)
    setup = Setup(image_weight=1.0)
    setup.losses()
    assert setup.model.calls["predict"] == calls


def test_ascent_asks_the_model_once_a_step_and_keeps_nothing() -> None:
    setup = Setup(objective="ascent")
    setup.losses()
    assert setup.model.calls["predict"] == STEPS
    assert setup.loss.bank == []


@pytest.mark.parametrize("objective", ["stand-in", "ascent"])
def test_the_gradient_in_parts_is_that_of_the_whole(objective: str) -> None:
    whole, parts = (Setup(rows, objective=objective, image_weight=5.0) for rows in (BATCH, 1))
    wanted, found = whole.gradients(), parts.gradients()
    assert any(float(gradient.abs().max()) > 1e-6 for gradient in wanted)
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-7)
