"""Blocks that run again on the way back give the same gradient and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unlearn_core.loaders.demo_model import load_demo_pipeline
from unlearn_core.loaders.diffusers_model import DiffusersModel
from unlearn_core.models.gradients import BLOCKS, checkpointed
from unlearn_core.text.conditioning import Conditioning


class ResBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return torch.tanh(self.layer(x))


def test_blocks_run_twice_and_are_as_they_were_afterwards() -> None:
    unet = nn.Sequential(ResBlock(), ResBlock())
    patched = unet[1].forward  # as a host may have done
    unet[1].forward = patched
    x = torch.randn(2, 8, requires_grad=True)
    plain = unet(x)
    (expected,) = torch.autograd.grad(plain.sum(), x)
    for block in unet:
        block.runs = 0
    with checkpointed(unet):
        output = unet(x)
    output.sum().backward()
    assert [block.runs for block in unet] == [2, 2]
    assert torch.equal(output, plain)
    assert x.grad is not None
    assert torch.allclose(x.grad, expected)
    assert "forward" not in vars(unet[0])
    assert vars(unet[1])["forward"] is patched


@pytest.fixture(scope="module")
def demo() -> DiffusersModel:
    return DiffusersModel(load_demo_pipeline(), torch.float32)


def gradient(model: DiffusersModel) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 77, 192, generator=generator).requires_grad_(True)
    output = model.predict(latents, torch.tensor([700, 20]), Conditioning(text))
    output.square().mean().backward()
    assert text.grad is not None
    return output.detach(), text.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pipeline_gives_the_same_gradient_when_it_recomputes(
    demo: DiffusersModel, dtype: torch.dtype
) -> None:
    model = DiffusersModel(demo.pipeline, dtype)
    output, plain = gradient(model)
    model.checkpointing = True
    again, checkpointed = gradient(model)
    assert torch.equal(output, again)
    assert float(plain.abs().max()) > 0
    assert torch.allclose(plain, checkpointed, rtol=1e-5, atol=1e-9)
    unet = demo.pipeline.unet
    found = [part for part in unet.modules() if type(part).__name__ in BLOCKS]
    assert len(found) == 11 + 7  # residual blocks and transformers
    assert all("forward" not in vars(part) for part in found)
    assert not any(part.training for part in unet.modules())
