"""A LoRA that hangs on the UNet: it leaves no trace, and diffusers reads its file the same."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from unlearn_core.errors import BadFile, WrongModel
from unlearn_core.loaders.diffusers_model import DiffusersModel, load_model
from unlearn_core.lora.file import load_lora, save_lora
from unlearn_core.lora.keys import text_module
from unlearn_core.lora.weights import LoraPair, LoraWeights, round_to_half
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.text.tokenizer import token_ids
from unlearn_core.unet_lora.hooks import UnetPart, hooked, module_names, unet_with_loras
from unlearn_core.unet_lora.training import is_trained, new_pairs

PROMPT = "a photo of a dog"
LATENTS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
TIMESTEPS = torch.tensor([100, 900])


@pytest.fixture
def model() -> DiffusersModel:
    return DiffusersModel(load_model("demo")[0].pipeline, torch.float32)


def a_lora(model: DiffusersModel) -> LoraWeights:
    """One that changes something in every layer that the preset trains."""
    generator = torch.Generator().manual_seed(0)
    unet = {
        name: LoraPair(
            pair.down.detach(), 0.05 * torch.randn(pair.up.shape, generator=generator), 2.0
        )
        for name, pair in new_pairs(model.unet, 4, generator).items()
    }
    nothing = LoraPair(torch.zeros(4, 192), torch.zeros(192, 4), 4.0)
    return round_to_half(LoraWeights({text_module(0, "q_proj"): nothing}, unet=unet))


def predicted(model: DiffusersModel) -> Tensor:
    text = build_encoder(model).condition(token_ids(PROMPT)).expand(2)
    return model.predict(LATENTS, TIMESTEPS, text)


def snapshot(model: DiffusersModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.unet.state_dict().items()}


def hooks_of(model: DiffusersModel) -> int:
    return sum(len(module._forward_hooks) for module in model.unet.modules())


def test_weights_stay_bit_identical_and_hooks_go(model: DiffusersModel) -> None:
    weights, before, lora = snapshot(model), predicted(model), a_lora(model)
    with hooked(model.unet, lora.unet):
        inside = predicted(model)
        assert hooks_of(model) == len(lora.unet)
    assert float((inside - before).abs().max()) > 0.01
    assert hooks_of(model) == 0
    assert torch.equal(predicted(model), before)
    assert all(torch.equal(value, weights[name]) for name, value in snapshot(model).items())


def test_hooks_go_when_something_fails_inside(model: DiffusersModel) -> None:
    with pytest.raises(ZeroDivisionError), hooked(model.unet, a_lora(model).unet):
        raise ZeroDivisionError
    assert hooks_of(model) == 0


def test_strength_scales_what_is_added(model: DiffusersModel) -> None:
    pair = LoraPair(torch.ones(2, 64), torch.ones(64, 2), 1.0)
    layer: Any = model.unet.get_submodule("down_blocks.0.attentions.0.proj_in")
    given = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    with hooked(model.unet, {"down_blocks_0_attentions_0_proj_in": pair}, 3.0):
        changed = layer(given) - layer.forward(given)
    torch.testing.assert_close(changed, 3.0 * given @ pair.delta().T)
    lora = LoraWeights({}, unet={"down_blocks_0_attentions_0_proj_in": pair})
    before = predicted(model)
    with unet_with_loras(model, [(lora, 0.0)]):
        assert torch.equal(predicted(model), before)


@pytest.mark.parametrize(
    ("name", "width", "said"),
    [
        ("mid_block_attentions_7_proj_in", 64, "does not have"),
        ("down_blocks_0_attentions_0_proj_in", 65, "64 x 65, this model has 64 x 64"),
    ],
)
def test_another_models_lora_is_refused(
    model: DiffusersModel, name: str, width: int, said: str
) -> None:
    pair = LoraPair(torch.ones(2, width), torch.ones(64, 2), 1.0)
    with pytest.raises(WrongModel, match=said):
        UnetPart.of(model, LoraWeights({}, unet={name: pair}))
    assert hooks_of(model) == 0


def test_cross_attention_is_left_alone(model: DiffusersModel) -> None:
    names = [name for name in module_names(model.unet).values() if is_trained(name)]
    assert not any("attn2" in name for name in names)
    assert "mid_block.attentions.0.transformer_blocks.0.attn1.to_q" in names
    assert "up_blocks.0.resnets.1.conv1" in names
    assert "conv_out" not in names


def test_the_file_comes_back_as_it_was_written(model: DiffusersModel, tmp_path: Path) -> None:
    lora = a_lora(model)
    save_lora(lora, tmp_path / "deep.safetensors")
    with pytest.raises(BadFile, match="changes more than the text encoder"):
        load_lora(tmp_path / "deep.safetensors")
    read = load_lora(tmp_path / "deep.safetensors", with_unet=True)
    assert read.unet.keys() == lora.unet.keys()
    for name, pair in lora.unet.items():
        assert torch.equal(read.unet[name].down, pair.down)
        assert torch.equal(read.unet[name].up, pair.up)
        assert read.unet[name].alpha == pair.alpha


def test_a_file_whose_factors_do_not_fit_is_refused(tmp_path: Path) -> None:
    nothing = LoraPair(torch.zeros(4, 192), torch.zeros(192, 4), 4.0)
    for bad in (
        LoraPair(torch.ones(2, 64), torch.ones(64, 3), 1.0),
        LoraPair(torch.ones(2, 64, 3, 3), torch.ones(64, 2, 3, 3), 1.0),
        LoraPair(torch.ones(2, 64, 3, 3), torch.ones(64, 2), 1.0),
    ):
        lora = LoraWeights({text_module(0, "q_proj"): nothing}, unet={"mid_block_x": bad})
        save_lora(lora, tmp_path / "bad.safetensors")
        with pytest.raises(BadFile, match="mid_block_x"):
            load_lora(tmp_path / "bad.safetensors", with_unet=True)


def test_diffusers_loads_the_file_and_predicts_the_same(
    model: DiffusersModel, tmp_path: Path
) -> None:
    if not diffusers.utils.USE_PEFT_BACKEND:
        pytest.skip("diffusers loads LoRAs only beside a newer transformers")
    lora = a_lora(model)
    with hooked(model.unet, lora.unet):
        ours = predicted(model)
    save_lora(lora, tmp_path / "deep.safetensors")
    without = predicted(model)
    pipeline: Any = model.pipeline
    text = build_encoder(model).condition(token_ids(PROMPT)).tokens.expand(2, -1, -1)
    pipeline.load_lora_weights(tmp_path, weight_name="deep.safetensors")
    with torch.no_grad():
        theirs = pipeline.unet(LATENTS, TIMESTEPS, encoder_hidden_states=text).sample
    assert float((ours - without).abs().max()) > 0.01
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)
