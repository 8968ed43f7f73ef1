"""What all adapters share, on parts that a test can see through."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from unlearn_core.errors import TrainingFailed
from unlearn_core.models import adapter
from unlearn_core.models.adapter import ModelAdapter
from unlearn_core.models.families import SD2
from unlearn_core.models.gradients import frozen, make_plain, residuals_kept
from unlearn_core.text.conditioning import Conditioning


class BasicTransformerBlock(nn.Module):
    """As in Forge: it adds to its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(8) for _ in range(3))
        self.attn1, self.attn2, self.ff = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x * 1.0
        x += self.attn1(self.norm1(x)) * context.mean(1, keepdim=True)
        x += self.attn2(self.norm2(x)) * context.mean(1, keepdim=True)
        skip = x
        x = self.ff(self.norm3(x))
        x += skip
        return x


class SmallModel(ModelAdapter):
    """A UNet that says what it was asked for."""

    family = SD2

    def __init__(self, most: int = 1000, vae_breaks: bool = False) -> None:
        self.device, self.compute_dtype = torch.device("cpu"), torch.float32
        self.most, self.vae_breaks = most, vae_breaks
        self.sizes: list[int] = []
        self.unet = nn.Identity()

    def text_encoder_weights(self) -> dict[str, Tensor]:
        return {}

    def _run_unet(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        self.sizes.append(len(latents))
        if len(latents) > self.most:
            raise torch.cuda.OutOfMemoryError("full")
        return latents * text.tokens.mean((1, 2)).view(-1, 1, 1, 1) + timesteps.view(-1, 1, 1, 1)

    def _encode(self, pixels: Tensor) -> Tensor:
        assert len(pixels) == 1
        return pixels.mean((2, 3), keepdim=True) * (float("nan") if self.vae_breaks else 1.0)

    def _decode(self, latents: Tensor) -> Tensor:
        assert len(latents) == 1
        return latents * 3


def batch(count: int) -> tuple[Tensor, Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(count, 4, 2, 2, generator=generator)
    text = Conditioning(torch.randn(count, 77, 8, generator=generator))
    return latents, torch.arange(count), text


def test_a_batch_that_does_not_fit_is_predicted_in_parts() -> None:
    whole, small = SmallModel(), SmallModel(most=3)
    given = batch(10)
    assert torch.equal(small.predict(*given), whole.predict(*given))
    assert whole.sizes == [10]
    assert small.sizes == [10, 5, 2, 2, 2, 2, 2]
    small.sizes.clear()
    small.predict(*given)
    assert small.sizes == [2] * 5  # what fits is remembered


def test_the_gradient_is_checked_once_and_reaches_the_text() -> None:
    model = SmallModel()
    latents, timesteps, text = batch(2)
    given = text.tokens.requires_grad_(True)
    model.predict(latents, timesteps, Conditioning(given)).square().sum().backward()
    assert given.grad is not None
    assert bool(given.grad.any())
    calls = len(model.sizes)
    model.predict(latents, timesteps, Conditioning(given))
    assert len(model.sizes) == calls + 1


def test_half_precision_scales_the_gradient_and_gives_it_back_unscaled() -> None:
    gradients = []
    for dtype in (torch.float32, torch.float16):
        model = SmallModel()
        model.compute_dtype = dtype
        latents, timesteps, text = batch(2)
        given = text.tokens.clone().requires_grad_(True)
        model.predict(latents, timesteps, Conditioning(given)).square().sum().backward()
        gradients.append(given.grad)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-6)  # type: ignore[arg-type]


def test_large_pictures_go_through_the_vae_one_by_one_and_stay_in_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter, "PIXELS_AT_ONCE", 100)
    model = SmallModel()
    assert model.encode_image(torch.ones(3, 3, 8, 8)).shape == (3, 3, 1, 1)
    decoded = model.decode_latents(torch.ones(3, 4, 1, 1))
    assert float(decoded.max()) == 1.0


def test_a_vae_that_gives_no_numbers_is_a_failure_in_words() -> None:
    with pytest.raises(TrainingFailed, match="in float32 or bfloat16"):
        SmallModel(vae_breaks=True).encode_image(torch.ones(1, 3, 8, 8))


def test_in_place_sums_break_the_gradient_and_kept_residuals_mend_it() -> None:
    block = BasicTransformerBlock()
    x, context = torch.randn(2, 5, 8), torch.randn(2, 5, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        block(x, context).sum().backward()
    with residuals_kept(block):
        inside = block(x, context)
        inside.sum().backward()
    assert context.grad is not None
    assert torch.equal(inside, block(x, context))
    assert not block.norm1._forward_pre_hooks


def test_inference_tensors_become_plain_ones_of_the_same_values() -> None:
    with torch.inference_mode():
        block = BasicTransformerBlock()
        values = {name: value.clone() for name, value in block.state_dict().items()}
    with frozen(block):
        make_plain(block)
        context = torch.randn(1, 5, 8, requires_grad=True)
        with residuals_kept(block):
            block(torch.randn(1, 5, 8), context).sum().backward()
    assert not any(parameter.is_inference() for parameter in block.parameters())
    assert all(torch.equal(values[name], value) for name, value in block.state_dict().items())
    with torch.inference_mode():  # the host moves it as before
        block.to(torch.float64)
        assert block(torch.randn(1, 5, 8).double(), torch.randn(1, 5, 8).double()).shape == (
            1,
            5,
            8,
        )


@pytest.mark.parametrize("used", [True, False])
def test_flags_of_inference_tensors_come_back(used: bool) -> None:
    with torch.inference_mode():
        block = BasicTransformerBlock()
        block.norm1.requires_grad_(False)
    before = {name: value.requires_grad for name, value in block.named_parameters()}
    with frozen(block):
        if used:
            make_plain(block)
        assert not any(value.requires_grad for value in block.parameters())
    assert {name: value.requires_grad for name, value in block.named_parameters()} == before


def test_flags_come_back_after_freezing_even_when_it_fails() -> None:
    block = BasicTransformerBlock()
    block.norm1.requires_grad_(False)
    before = [parameter.requires_grad for parameter in block.parameters()]
    with suppress(KeyError), frozen(block):
        assert not any(parameter.requires_grad for parameter in block.parameters())
        raise KeyError
    assert [parameter.requires_grad for parameter in block.parameters()] == before


def test_a_row_that_does_not_fit_alone_is_the_hosts_own_error() -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError):
        SmallModel(most=0).predict(*batch(1))


class ResBlock(nn.Module):
    """Found by its name, as blocks of the hosts are."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x).tanh()


class BlockModel(SmallModel):
    """A UNet of one block, whose weights want a gradient, as some hosts leave them."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = ResBlock()

    def _run_unet(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        return latents + self.unet(text.tokens).mean((1, 2)).view(-1, 1, 1, 1)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_weight_of_the_host_gets_a_gradient_on_the_way_back(checkpointing: bool) -> None:
    torch.manual_seed(0)
    model = BlockModel()
    model.checkpointing = checkpointing
    latents, timesteps, text = batch(2)
    given = text.tokens.requires_grad_(True)
    model.predict(latents, timesteps, Conditioning(given)).square().sum().backward()
    assert given.grad is not None
    assert bool(given.grad.any())
    assert all(weight.grad is None for weight in model.unet.parameters())
    assert all(weight.requires_grad for weight in model.unet.parameters())
