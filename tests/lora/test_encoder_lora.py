"""A LoRA on a private text tower: attached, switched off, exported and taken off again."""

import warnings

import pytest
import torch
from tiny_model import WIDTH, draw, make_settings, text_encoder_weights, tiny_tower, tower_of
from torch import Tensor, nn

from unlearn_core.lora.encoder_lora import EncoderLora, chosen_modules
from unlearn_core.lora.keys import ATTENTION, MLP, MODULES, ModuleKey, text_module
from unlearn_core.lora.weights import LoraPair, LoraWeights
from unlearn_core.text.frozen_layers import FrozenLinear
from unlearn_core.text.tokenizer import token_ids
from unlearn_core.text.tower_encoder import TowerEncoder

PROMPTS = torch.cat([token_ids("a photo of a dog"), token_ids("")])
EVERYTHING = [text_module(layer, module) for layer in range(3) for module in MODULES]


def attach(
    tower: TowerEncoder, modules: list[ModuleKey] | None = None, rank: int = 4, seed: int = 0
) -> EncoderLora:
    chosen = EVERYTHING if modules is None else modules
    return EncoderLora(tower, chosen, rank, torch.Generator().manual_seed(seed))


def spoil(lora: EncoderLora) -> None:
    """Let the LoRA change something."""
    with torch.no_grad():
        for number, key in enumerate(lora.modules):
            lora.up(key).copy_(0.3 * draw(*lora.up(key).shape, seed=number))


def plain_weights(tower: TowerEncoder) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tower.model.state_dict().items()}


@pytest.mark.parametrize(
    ("modules", "layers", "expected"),
    [
        ("all", "last:1", [text_module(2, m) for m in (*ATTENTION, *MLP)]),
        ("attention", "first:2", [text_module(i, m) for i in (0, 1) for m in ATTENTION]),
        ("mlp", "1", [text_module(1, "fc1"), text_module(1, "fc2")]),
    ],
)
def test_the_settings_name_the_projections(
    modules: str, layers: str, expected: list[ModuleKey]
) -> None:
    assert chosen_modules(make_settings(modules=modules, layers=layers), 2) == expected


def test_nothing_changes_before_the_first_step() -> None:
    tower = tiny_tower()
    before = tower.encode(PROMPTS)
    lora = attach(tower)
    assert torch.equal(tower.encode(PROMPTS), before)
    assert all(not bool(lora.up(key).any()) for key in EVERYTHING)
    assert all(bool(lora.down(key).any()) for key in EVERYTHING)


@pytest.mark.parametrize("modules", [[text_module(2, "fc2")], EVERYTHING, EVERYTHING[3:9]])
def test_exactly_the_chosen_projections_are_changed(modules: list[ModuleKey]) -> None:
    tower = tiny_tower()
    lora = attach(tower, modules)
    owners = {
        name.split(".lora_")[0].removeprefix("encoder.layers.")
        for name, _ in tower.layers.named_parameters()
        if ".lora_" in name
    }
    assert owners == {
        f"{key.layer}.{'mlp' if key.module in MLP else 'self_attn'}.{key.module}" for key in modules
    }
    assert lora.modules == tuple(modules)
    trained = {id(p) for p in tower.model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in lora.parameters()}
    assert len(lora.parameters()) == 2 * len(modules)
    assert {p.dtype for p in lora.parameters()} == {torch.float32}


def test_layer_ten_is_not_taken_for_layer_zero() -> None:
    few = text_encoder_weights()
    weights = {n: w for n, w in few.items() if "layers" not in n}
    for layer in range(12):
        for name, value in few.items():
            if "layers.0." in name:
                weights[name.replace("layers.0.", f"layers.{layer}.")] = value
    tower = tower_of(weights, 11)
    attach(tower, [text_module(layer, m) for layer in (0, 1, 2, 3) for m in MODULES])
    changed = {n.split(".")[0] for n, _ in tower.layers.named_parameters() if ".lora_" in n}
    assert changed == {"0", "1", "2", "3"}


def test_disabled_is_the_unchanged_tower_even_after_an_error() -> None:
    tower = tiny_tower()
    before = tower.encode(PROMPTS)
    lora = attach(tower)
    spoil(lora)
    changed = tower.encode(PROMPTS)
    assert not torch.allclose(changed, before, atol=0.1)
    with lora.disabled():
        assert torch.equal(tower.encode(PROMPTS), before)
    assert torch.equal(tower.encode(PROMPTS), changed)
    with pytest.raises(KeyError), lora.disabled():
        raise KeyError
    assert torch.equal(tower.encode(PROMPTS), changed)


def test_switching_off_and_on_leaves_the_weights_trainable() -> None:
    lora = attach(tiny_tower())
    with lora.disabled():
        pass
    assert all(p.requires_grad for p in lora.parameters())


def test_detaching_puts_plain_linears_back_bit_for_bit() -> None:
    tower = tiny_tower()
    before, weights = tower.encode(PROMPTS), plain_weights(tower)
    lora = attach(tower)
    spoil(lora)
    lora.detach()
    after = plain_weights(tower)
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert torch.equal(tower.encode(PROMPTS), before)
    linears = [m for layer in tower.layers for m in layer.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == len(EVERYTHING)
    assert {type(m) for m in linears} == {FrozenLinear}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tower.model.modules())
    assert not any(p.requires_grad for p in tower.model.parameters())


def test_a_second_lora_can_follow_the_first_without_a_warning() -> None:
    tower = tiny_tower()
    first = attach(tower)
    spoil(first)
    first.detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = attach(tower, [text_module(1, "fc1")], rank=2, seed=1)
    assert second.down(text_module(1, "fc1")).shape == (2, WIDTH)
    assert torch.equal(tower.encode(PROMPTS), tiny_tower().encode(PROMPTS))
    second.detach()


def test_down_is_drawn_from_the_generator_alone() -> None:
    key = text_module(1, "q_proj")
    state = torch.random.get_rng_state()
    first, again, other = (attach(tiny_tower(), seed=seed).down(key) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.detach().norm(dim=1).mean()) == pytest.approx(1, abs=0.2)
    torch.manual_seed(123)
    assert torch.equal(attach(tiny_tower(), seed=1).down(key), first)
    torch.random.set_rng_state(state)


def test_a_lora_is_exported_and_loaded_again() -> None:
    tower = tiny_tower()
    lora = attach(tower)
    spoil(lora)
    changed = tower.encode(PROMPTS)
    weights = lora.export()
    assert weights.metadata == {}
    assert list(weights.pairs) == EVERYTHING
    assert {(pair.rank, pair.alpha) for pair in weights.pairs.values()} == {(4, 4.0)}
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.zero_()
    assert bool(weights.pairs[EVERYTHING[0]].up.any()), "the export is a copy"
    lora.load(weights)
    assert torch.equal(tower.encode(PROMPTS), changed)


def test_loading_takes_account_of_another_alpha() -> None:
    key = text_module(2, "fc1")
    tower = tiny_tower()
    lora = attach(tower, [key])
    down, up = draw(4, WIDTH), 0.1 * draw(*lora.up(key).shape)
    lora.load(LoraWeights({key: LoraPair(down, up, alpha=2.0)}))
    torch.testing.assert_close(lora.export().pairs[key].delta(), 0.5 * up @ down)


def test_strength_scales_the_change_of_a_weight_linearly() -> None:
    key = text_module(2, "fc2")
    tower = tiny_tower()
    lora = attach(tower, [key])
    spoil(lora)
    delta = lora.export().pairs[key].delta()
    place = tower.layers[2].get_submodule("mlp.fc2")
    inputs = draw(5, delta.shape[1])
    plain = lora.frozen(key)(inputs)
    for strength in (0.0, 0.5, 1.0, 1.3):
        lora.set_strength(strength)
        torch.testing.assert_close(place(inputs) - plain, strength * inputs @ delta.T)


def test_the_change_is_what_the_exported_delta_says() -> None:
    tower = tiny_tower()
    lora = attach(tower)
    spoil(lora)
    changed = tower.encode(PROMPTS)
    weights = lora.export()
    lora.detach()
    with torch.no_grad():
        for key, pair in weights.pairs.items():
            place = f"mlp.{key.module}" if key.module in MLP else f"self_attn.{key.module}"
            linear = tower.layers[key.layer].get_submodule(place)
            assert isinstance(linear, nn.Linear)
            linear.weight += pair.delta()
    torch.testing.assert_close(tower.encode(PROMPTS), changed, atol=1e-4, rtol=1e-4)
