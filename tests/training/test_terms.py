"""The term of the loss that goes through the UNet; the others are tried with the loop."""

from __future__ import annotations

import pytest
import torch
from tiny_model import WIDTH, TinyModel, draw, make_settings, make_writer, pictures, tiny_tower
from torch import Tensor

from unlearn_core.lora.encoder_lora import EncoderLora, chosen_modules
from unlearn_core.models.noise import add_noise, draw_timesteps, training_target
from unlearn_core.models.sampling import encode_pictures
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import VOCABULARY
from unlearn_core.training.terms import BATCH_PICTURES, AscentTerm, ConceptPictures
from unlearn_core.words.prompts import Name

STEPS, WEIGHT = 7, 5.0
CAT = Name.of("cat")


class Setup:
    """A LoRA that is not zero, on the tiny tower, and the term over it, of two concepts."""

    def __init__(self, unet_rows: int = BATCH_PICTURES) -> None:
        settings = make_settings()
        self.model, tower = TinyModel(), tiny_tower()
        self.encoder = TextEncoder([tower])
        modules = chosen_modules(settings, tower.conditioning_layer)
        tower.split_at(min(key.layer for key in modules))
        generator = torch.Generator().manual_seed(3)
        self.lora = EncoderLora(tower, modules, settings.rank, generator)
        with torch.no_grad():
            for key in modules:
                self.lora.up(key).add_(0.1)
        self.prompts = [make_writer().forget([Name.of(word)], CAT, 8) for word in ("dog", "owl")]
        self.latents = [encode_pictures(self.model, pictures(count)) for count in (4, 2)]
        concepts = [
            ConceptPictures.of(self.encoder, [self.lora], latents, prompts, None)
            for latents, prompts in zip(self.latents, self.prompts, strict=True)
        ]
        self.term = AscentTerm(self.model, self.encoder, concepts, WEIGHT, generator, unet_rows)

    def loss(self, step: int) -> Tensor:
        (loss,) = self.term(step)
        return loss

    def gradients(self) -> list[Tensor]:
        return list(torch.autograd.grad(self.loss(0), self.lora.parameters()))


@torch.no_grad()
def by_hand(setup: Setup) -> list[float]:
    """The same draws, with every prompt encoded when it is needed."""
    model, generator, values = setup.model, setup.term.generator, []
    for step in range(STEPS):
        prompts, latents = setup.prompts[step % 2], setup.latents[step % 2]
        rows = torch.randint(len(prompts), (BATCH_PICTURES,), generator=generator)
        clean = latents[torch.randint(len(latents), (BATCH_PICTURES,), generator=generator)]
        noise = torch.randn(clean.shape, generator=generator)
        t = draw_timesteps(BATCH_PICTURES, generator)
        noisy = add_noise(clean, noise, t, model.alphas_cumprod)
        predicted = model.predict(noisy, t, setup.encoder.condition(prompts.token_ids[rows]))
        target = training_target(clean, noise, t, model.alphas_cumprod, model.prediction)
        values.append(-WEIGHT * float((predicted - target).square().mean()))
    return values


def test_ascent_raises_the_denoising_loss_of_concepts_that_take_turns() -> None:
    setup = Setup()
    losses = [float(setup.loss(step).detach()) for step in range(STEPS)]
    assert losses == pytest.approx(by_hand(Setup()), rel=1e-4)
    assert len(set(losses)) == STEPS
    assert setup.model.calls["predict"] == STEPS


def test_the_gradient_in_parts_is_that_of_the_whole() -> None:
    wanted, found = Setup(BATCH_PICTURES).gradients(), Setup(1).gradients()
    assert any(float(gradient.abs().max()) > 1e-6 for gradient in wanted)
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-7)


def test_learned_vectors_stand_in_the_prompts() -> None:
    setup = Setup()
    prompts = make_writer().forget([Name("<learned>", (VOCABULARY,), True)], CAT, 8)
    one, other = (
        ConceptPictures.of(setup.encoder, [setup.lora], setup.latents[0], prompts, vectors)
        for vectors in (draw(1, WIDTH, seed=1), draw(1, WIDTH, seed=2))
    )
    assert not torch.equal(one.states[0], other.states[0])
