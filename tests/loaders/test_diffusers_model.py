"""Lending a diffusers pipeline: loading it, what it computes, what it leaves untouched."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unlearn_core.errors import WrongModel
from unlearn_core.loaders.demo_model import load_demo_pipeline
from unlearn_core.loaders.diffusers_model import DiffusersModel, load_model
from unlearn_core.models.devices import cpu_multiplies_bfloat16, default_compute_dtype
from unlearn_core.text.conditioning import Conditioning


@pytest.fixture(scope="module")
def demo() -> DiffusersModel:
    return DiffusersModel(load_demo_pipeline(), torch.float32)


def inputs(batch: int = 2, chunks: int = 1) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, 4, 8, 8, generator=generator)
    text = Conditioning(torch.randn(batch, 77 * chunks, 192, generator=generator))
    return latents, torch.tensor([700, 20][:batch]), text


def test_the_demo_model_is_lent_as_it_is(demo: DiffusersModel) -> None:
    model, line = load_model("demo")
    assert line == "prediction: v (its scheduler_config.json says so)"
    assert (model.prediction, model.native_size, model.conditioning_layers) == ("v", 64, (5,))
    assert model.compute_dtype == default_compute_dtype(model.device)
    assert demo.alphas_cumprod.shape == (1000,)
    assert demo.alphas_cumprod.dtype == torch.float32
    assert bool((demo.alphas_cumprod.diff() < 0).all())
    weights = demo.text_encoder_weights()
    assert all(name.startswith("text_model.") for name in weights)
    assert not any("position_ids" in name for name in weights)
    held = demo.pipeline.text_encoder.state_dict()
    assert all(torch.equal(weights[name], held[name]) for name in held if name in weights)
    assert len(weights) == len([name for name in held if "position_ids" not in name])


def test_the_prediction_equals_the_unet_and_takes_long_prompts(demo: DiffusersModel) -> None:
    latents, timesteps, text = inputs()
    with torch.no_grad():
        expected = demo.pipeline.unet(latents, timesteps, encoder_hidden_states=text.tokens).sample
    output = demo.predict(latents, timesteps, text)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected)
    assert demo.predict(*inputs(chunks=3)).shape == latents.shape


def test_the_gradient_at_the_text_is_right(demo: DiffusersModel) -> None:
    latents, timesteps, text = inputs(1)
    weight = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2)).double()
    direction = torch.randn(text.tokens.shape, generator=torch.Generator().manual_seed(3))
    text.tokens.requires_grad_(True)
    (demo.predict(latents, timesteps, text).double() * weight).sum().backward()
    assert text.tokens.grad is not None
    slope = float((text.tokens.grad.double() * direction).sum())
    step = 1e-2
    with torch.no_grad():
        moved = [Conditioning(text.tokens + sign * step * direction) for sign in (1, -1)]
        ends = [float((demo.predict(latents, timesteps, t) * weight).sum()) for t in moved]
    assert abs(slope) > 1e-3
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.02)


def test_a_lent_pipeline_keeps_its_weights_and_flags() -> None:
    pipeline = load_demo_pipeline()
    pipeline.unet.requires_grad_(True)
    pipeline.unet.conv_in.weight.requires_grad_(False)
    pipeline.text_encoder.requires_grad_(True)
    modules = (pipeline.unet, pipeline.vae, pipeline.text_encoder)

    def state() -> list[Any]:
        flags = [p.requires_grad for module in modules for p in module.parameters()]
        modes = [part.training for module in modules for part in module.modules()]
        return [flags, modes]

    weights = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
    before = state()
    model = DiffusersModel(pipeline, torch.float32)
    latents, timesteps, text = inputs()
    text.tokens.requires_grad_(True)
    model.predict(latents, timesteps, text).square().mean().backward()
    model.encode_image(torch.zeros(1, 3, 64, 64))
    model.text_encoder_weights()
    assert state() == before
    assert all(p.grad is None for module in modules for p in module.parameters())
    for module, old in zip(modules, weights, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in module.state_dict().items())


def test_pictures_go_to_latents_and_back(demo: DiffusersModel) -> None:
    pixels = torch.zeros(2, 3, 64, 64)
    pixels[:, 0, 16:48, 16:48] = 0.8
    latents = demo.encode_image(pixels)
    assert latents.shape == (2, 4, 8, 8)
    assert torch.equal(latents, demo.encode_image(pixels))
    back = demo.decode_latents(latents)
    assert back.shape == pixels.shape
    assert float((back - pixels).abs().mean()) < 0.1
    assert float(back.abs().max()) <= 1


def test_a_half_pipeline_on_the_cpu_is_refused() -> None:
    with pytest.raises(WrongModel, match=r"torch_dtype=torch\.float32"):
        DiffusersModel(load_demo_pipeline().to(torch.float16))


@pytest.mark.parametrize(("part", "name"), [("unet", "UNet"), ("vae", "VAE")])
def test_parts_of_other_types_are_refused_before_the_first_step(part: str, name: str) -> None:
    pipeline: Any = load_demo_pipeline()
    getattr(pipeline, part).to(torch.float16)
    with pytest.raises(WrongModel, match=rf"The {name}'s weights are torch\.float16"):
        DiffusersModel(pipeline)
    mixed: Any = load_demo_pipeline()
    next(getattr(mixed, part).parameters()).data = torch.zeros(1, dtype=torch.float16)
    with pytest.raises(WrongModel, match=rf"The {name}'s weights are of several types"):
        DiffusersModel(mixed)


def test_bfloat16_is_only_for_processors_that_have_it() -> None:
    expected = torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32
    assert default_compute_dtype(torch.device("cpu")) == expected
    model = DiffusersModel(load_demo_pipeline(), torch.bfloat16)
    exact = DiffusersModel(model.pipeline, torch.float32)
    output, expected_output = model.predict(*inputs()), exact.predict(*inputs())
    assert output.dtype == torch.float32
    assert float((output - expected_output).abs().mean()) < 0.05
