"""Merging LoRAs, adding one to a model, and diffusers' own view of the same file."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unlearn_core.errors import BadSettings, WrongModel
from unlearn_core.lora.file import load_lora, save_lora
from unlearn_core.lora.keys import MODULES, key_of_module, text_module, weight_name
from unlearn_core.lora.weights import LoraPair, LoraWeights, apply_lora

WIDTH = 64
LAYERS = 3
SHAPES = {"fc1": (4 * WIDTH, WIDTH), "fc2": (WIDTH, 4 * WIDTH)}


def make_lora(seed: int, rank: int = 4, alpha: float = 2.0, size: float = 0.1) -> LoraWeights:
    """Random q, v, fc1 and fc2 of layers 0 and 1."""
    draw = torch.Generator().manual_seed(seed)
    pairs = {}
    for layer in (0, 1):
        for module in ("q_proj", "v_proj", "fc1", "fc2"):
            out, inner = SHAPES.get(module, (WIDTH, WIDTH))
            down = torch.randn(rank, inner, generator=draw) * size
            up = torch.randn(out, rank, generator=draw) * size
            pairs[text_module(layer, module)] = LoraPair(down, up, alpha)
    return LoraWeights(pairs, {"ss_output_name": f"lora{seed}"})


def make_weights(width: int = WIDTH, layers: int = LAYERS) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(9)
    weights = {"text_model.embeddings.token_embedding.weight": torch.zeros(3, width)}
    for layer in range(layers):
        for module in MODULES:
            out, inner = {"fc1": (4 * width, width), "fc2": (width, 4 * width)}.get(
                module, (width, width)
            )
            name = weight_name(text_module(layer, module))
            weights[name] = torch.randn(out, inner, generator=draw)
    return weights


def test_the_delta_of_each_module_is_added_and_nothing_else_changes() -> None:
    weights, lora = make_weights(), make_lora(1)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    changed = apply_lora(weights, lora, 0.7)
    for name, tensor in weights.items():
        assert torch.equal(tensor, before[name]), "the given weights must stay as they are"
        key = key_of_module(name)
        if key in lora.pairs:
            pair = lora.pairs[key]
            expected = tensor.double() + 0.7 * (pair.up.double() @ pair.down.double()) * 2.0 / 4
            torch.testing.assert_close(changed[name].double(), expected, rtol=0, atol=1e-6)
        else:
            assert changed[name] is tensor


@pytest.mark.parametrize("strength", [1e38, -3e38])
def test_a_strength_that_makes_weights_infinite_is_refused(strength: float) -> None:
    with pytest.raises(
        BadSettings, match=r"At strength -?.*e\+38 .* not finite.* smaller strength"
    ):
        apply_lora(make_weights(), make_lora(1, size=10.0), strength)


def test_strength_zero_gives_the_same_tensors() -> None:
    weights = make_weights()
    changed = apply_lora(weights, make_lora(1), 0.0)
    assert changed is not weights
    assert all(changed[name] is tensor for name, tensor in weights.items())


def test_half_precision_weights_are_added_to_in_float32() -> None:
    weights = {name: tensor.half() for name, tensor in make_weights().items()}
    name = weight_name(text_module(0, "q_proj"))
    changed = apply_lora(weights, make_lora(1, size=1e-3))
    assert changed[name].dtype == torch.float32
    assert not torch.equal(changed[name], weights[name].float())


def test_strengths_one_and_minus_one_cancel() -> None:
    weights, lora = make_weights(), make_lora(1)
    there_and_back = apply_lora(apply_lora(weights, lora, 1.0), lora, -1.0)
    for name, tensor in weights.items():
        torch.testing.assert_close(there_and_back[name], tensor, rtol=0, atol=1e-6)


def test_another_text_width_is_named() -> None:
    with pytest.raises(WrongModel, match="made for text width 64, this model has 192"):
        apply_lora(make_weights(width=192), make_lora(1))


@pytest.mark.parametrize("module", ["fc1", "fc2"])
def test_another_text_width_is_named_for_an_mlp_alone(module: str) -> None:
    pairs = {key: pair for key, pair in make_lora(1).pairs.items() if key.module == module}
    with pytest.raises(WrongModel, match="made for text width 64, this model has 32"):
        apply_lora(make_weights(width=32), LoraWeights(pairs))


def test_a_module_of_another_shape_is_named() -> None:
    pair = LoraPair(torch.ones(1, WIDTH), torch.ones(WIDTH + 1, 1), 1.0)
    with pytest.raises(WrongModel, match="q_proj of text layer 0 as 65 x 64"):
        apply_lora(make_weights(), LoraWeights({text_module(0, "q_proj"): pair}))


def test_a_layer_that_the_model_lacks_is_named() -> None:
    pair = next(iter(make_lora(1).pairs.values()))
    lora = LoraWeights({text_module(22, "q_proj"): pair})
    with pytest.raises(WrongModel, match=r"text layer 22.* has 3 layers"):
        apply_lora(make_weights(), lora)


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_not_finite_is_refused(strength: float) -> None:
    with pytest.raises(BadSettings, match="finite"):
        apply_lora(make_weights(), make_lora(1), strength)


def test_diffusers_loads_the_file_and_its_conditioning_changes_as_ours(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    if not diffusers.utils.USE_PEFT_BACKEND:
        pytest.skip("diffusers loads LoRAs only beside a newer transformers")
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=100,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        bos_token_id=98,
        eos_token_id=99,
        pad_token_id=0,
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = CLIPTextModel(config).train(False)
    pipe = diffusers.StableDiffusionPipeline(
        vae=None,
        text_encoder=encoder,
        tokenizer=None,
        unet=unet,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    ids = torch.arange(77)[None]
    path = tmp_path / "forget-dog.safetensors"
    save_lora(make_lora(1), path)

    # transformers 4 has "text_model." in its names, transformers 5 has not.
    weights = {
        f"text_model.{name.removeprefix('text_model.')}": tensor
        for name, tensor in encoder.state_dict().items()
    }
    ours = CLIPTextModel(config).train(False)
    own_names = {name.removeprefix("text_model."): name for name in ours.state_dict()}
    changed = apply_lora(weights, load_lora(path))
    ours.load_state_dict(
        {own_names[name.removeprefix("text_model.")]: value for name, value in changed.items()}
    )
    with torch.no_grad():
        before = encoder(ids).last_hidden_state
        expected = ours(ids).last_hidden_state
        pipe.load_lora_weights(tmp_path, weight_name=path.name)
        theirs = pipe.text_encoder(ids).last_hidden_state
    assert float((expected - before).abs().max()) > 1e-2
    torch.testing.assert_close(theirs, expected, rtol=0, atol=1e-4)
