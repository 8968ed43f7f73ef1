"""One private text tower: equal to transformers', differentiable, and apart from the host."""

from typing import Any

import pytest
import torch
from tiny_model import (
    INNER,
    LAST_USED,
    LAYERS,
    WIDTH,
    draw,
    text_encoder_weights,
    tiny_tower,
    tower_of,
)
from torch import Tensor

from unlearn_core.errors import WrongModel
from unlearn_core.lora.encoder_lora import EncoderLora
from unlearn_core.lora.keys import text_module
from unlearn_core.text.token_trees import encode_all
from unlearn_core.text.tokenizer import BOS, CHUNK, EOS, PAD, VOCABULARY, token_ids, tokenize
from unlearn_core.text.tower_encoder import TowerEncoder

PROMPTS = torch.cat([token_ids(text) for text in ("", "a photo of a dog", "dog, " * 37)])
TABLE = "text_model.embeddings.token_embedding.weight"
POSITIONS = "text_model.embeddings.position_embedding.weight"


@pytest.fixture(scope="module")
def tower() -> TowerEncoder:
    return tiny_tower()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(dtype: torch.dtype, value: float) -> None:
    weights = {name: weight.to(dtype) for name, weight in text_encoder_weights().items()}
    weights["text_model.encoder.layers.1.mlp.fc1.weight"][3, 2] = value
    with pytest.raises(WrongModel, match=r"layers\.1\.mlp\.fc1\.weight holds .* not finite"):
        tower_of(weights)


@pytest.fixture(scope="module")
def expected() -> Tensor:
    """What transformers makes of the prompts: the penultimate layer, then the last norm."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, projection_dim=WIDTH,
        num_hidden_layers=LAYERS, num_attention_heads=1, hidden_act="gelu",
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    model = CLIPTextModel(config).train(False)
    body: Any = getattr(model, "text_model", model)
    weights = {name.removeprefix("text_model."): w for name, w in text_encoder_weights().items()}
    loaded = body.load_state_dict(weights, strict=False)
    assert not loaded.unexpected_keys
    assert all("position_ids" in name for name in loaded.missing_keys)
    with torch.no_grad():
        states = model(input_ids=PROMPTS, output_hidden_states=True).hidden_states[LAST_USED + 1]
        normed: Tensor = body.final_layer_norm(states)
    return normed


def test_it_is_the_penultimate_layer_of_transformers(tower: TowerEncoder, expected: Tensor) -> None:
    assert len(tower.layers) == LAST_USED + 1
    torch.testing.assert_close(tower.encode(PROMPTS), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("layer", range(LAST_USED + 1))
def test_the_tail_goes_on_wherever_it_is_split(layer: int, expected: Tensor) -> None:
    tower = tiny_tower()
    tower.split_at(layer)
    between, _ = encode_all(tower, PROMPTS)
    assert between.shape == expected.shape
    torch.testing.assert_close(tower.tail(between), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tower.encode(PROMPTS), expected, atol=1e-6, rtol=1e-6)


def test_before_the_first_layer_are_the_embeddings() -> None:
    tower, weights = tiny_tower(), text_encoder_weights()
    embedded = weights[TABLE][PROMPTS] + weights[POSITIONS]
    torch.testing.assert_close(encode_all(tower, PROMPTS)[0], embedded)


def test_later_positions_change_nothing_before_them(tower: TowerEncoder) -> None:
    whole = tower.encode(PROMPTS)
    for length in (1, 5, 32, 76):
        torch.testing.assert_close(tower.encode(PROMPTS[:, :length]), whole[:, :length])


def test_half_precision_weights_are_taken_and_computed_in_float32() -> None:
    weights = {name: value.half() for name, value in text_encoder_weights().items()}
    states = tower_of(weights).encode(PROMPTS)
    assert states.dtype == torch.float32
    again = {name: value.float() for name, value in weights.items()}
    assert torch.equal(states, tower_of(again).encode(PROMPTS))


def test_learned_vectors_are_read_for_ids_beyond_the_vocabulary_and_only_there(
    tower: TowerEncoder,
) -> None:
    cat, car = tokenize("cat car")
    plain = torch.tensor([[BOS, cat, 320, car, EOS]])
    marked = torch.tensor([[BOS, VOCABULARY + 1, 320, VOCABULARY, EOS]])
    learned = tower.words.weight[[car, cat]]
    assert torch.equal(tower.encode(marked, learned), tower.encode(plain))
    other = draw(2, WIDTH)
    assert torch.equal(tower.encode(plain, other), tower.encode(plain))
    assert not torch.allclose(tower.encode(marked, other), tower.encode(plain))


def test_only_the_learned_vectors_that_stand_in_the_prompt_get_a_gradient() -> None:
    tower = tiny_tower()
    learned = draw(3, WIDTH).requires_grad_(True)
    ids = torch.tensor([[BOS, VOCABULARY, 320, VOCABULARY + 2, EOS]])
    tower.encode(ids, learned).square().mean().backward()
    assert learned.grad is not None
    assert [bool(row.any()) for row in learned.grad] == [True, False, True]
    assert all(p.grad is None and not p.requires_grad for p in tower.model.parameters())
    assert not tower.model.training


def test_learned_vectors_are_forgotten_after_an_error(tower: TowerEncoder) -> None:
    with pytest.raises(IndexError):
        tower.encode(torch.tensor([[-1]]), draw(1, WIDTH))
    assert tower.words.learned is None


def test_the_copy_and_the_hosts_weights_share_no_memory() -> None:
    weights = text_encoder_weights()
    tower = tower_of(weights)
    before = tower.encode(PROMPTS)
    with torch.no_grad():
        for parameter in tower.model.parameters():
            parameter.fill_(7.0)
    for name, value in text_encoder_weights().items():
        assert torch.equal(weights[name], value), name
    tower = tower_of(weights)
    for value in weights.values():
        value.fill_(7.0)
    assert torch.equal(tower.encode(PROMPTS), before)


def test_building_and_encoding_leave_the_global_random_state_alone() -> None:
    state = torch.random.get_rng_state()
    tower = tiny_tower()
    tower.split_at(1)
    tower.encode(PROMPTS)
    assert torch.equal(torch.random.get_rng_state(), state)


def shapes_of(width: int, layers: int, vocabulary: int, positions: int) -> dict[str, Tensor]:
    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta")

    weights = {TABLE: empty(vocabulary, width), POSITIONS: empty(positions, width)}
    for layer in range(layers):
        name = f"text_model.encoder.layers.{layer}.mlp.fc1.weight"
        weights[name] = empty(4 * width, width)
    return weights


@pytest.mark.parametrize(
    ("shapes", "layer", "message"),
    [
        ((1024, 24, 1000, CHUNK), 22, "has 1000 tokens, 77 positions and width 1024"),
        ((1024, 24, VOCABULARY + 2, CHUNK), 22, "has 49410 tokens.*textual inversion"),
        ((1024, 24, VOCABULARY, 248), 22, "248 positions"),
        ((100, 3, VOCABULARY, CHUNK), 2, "width 100"),
        ((1024, 22, VOCABULARY, CHUNK), 22, "Layer 22 .* but there are 22 layers"),
        ((1024, 24, VOCABULARY, CHUNK), -1, "Layer -1"),
    ],
)
def test_a_model_of_another_family_is_refused(
    shapes: tuple[int, int, int, int], layer: int, message: str
) -> None:
    with pytest.raises(WrongModel, match=message):
        tower_of(shapes_of(*shapes), layer)


@pytest.mark.parametrize(
    "name",
    [
        TABLE, POSITIONS, "text_model.final_layer_norm.bias",
        "text_model.encoder.layers.0.mlp.fc1.weight",
        "text_model.encoder.layers.2.self_attn.q_proj.weight",
        "text_model.encoder.layers.1.layer_norm2.bias",
    ],
)  # fmt: skip
def test_missing_and_misshapen_weights_are_refused(name: str) -> None:
    weights = text_encoder_weights()
    whole = weights.pop(name)
    with pytest.raises(WrongModel, match="missing"):
        tower_of(weights)
    weights[name] = torch.cat([whole, whole])
    with pytest.raises(WrongModel):
        tower_of(weights)


def test_no_weights_at_all_are_refused() -> None:
    with pytest.raises(WrongModel):
        tower_of({})


def test_a_layer_that_is_not_used_may_be_missing() -> None:
    weights = {
        name: value
        for name, value in text_encoder_weights().items()
        if not name.startswith(f"text_model.encoder.layers.{LAYERS - 1}.")
    }
    assert len(tower_of(weights).layers) == LAST_USED + 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_are_held_as_they_are_and_computed_with_in_float32(dtype: torch.dtype) -> None:
    halves = {name: value.to(dtype) for name, value in text_encoder_weights().items()}
    wide = {name: value.float() for name, value in halves.items()}
    held, full = (tower_of(weights) for weights in (halves, wide))
    assert torch.equal(held.encode(PROMPTS), full.encode(PROMPTS))
    assert {layer.mlp.fc1.weight.dtype for layer in held.layers} == {dtype}
    assert held.words.held.dtype == dtype
    assert torch.equal(held.words.weight, full.words.weight)


def test_a_lora_on_half_weights_is_float32_and_so_is_what_it_changes() -> None:
    halves = {name: value.half() for name, value in text_encoder_weights().items()}
    tower = tower_of(halves)
    key = text_module(1, "fc2")
    lora = EncoderLora(tower, [key], 4, torch.Generator().manual_seed(0))
    assert {weight.dtype for weight in lora.parameters()} == {torch.float32}
    assert lora.frozen(key).weight.dtype == torch.float16
    before = tower.encode(PROMPTS)
    with torch.no_grad():
        lora.up(key).fill_(0.01)
    assert not torch.equal(tower.encode(PROMPTS), before)
