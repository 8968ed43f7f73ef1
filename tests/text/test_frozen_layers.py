"""A frozen tower in bfloat16: near float32, the same in examples and training, and put back."""

from collections.abc import Callable

import pytest
import torch
from tiny_model import (
    LAST_USED,
    TinyModel,
    make_writer,
    small_settings,
    text_encoder_weights,
    tower_of,
)
from torch import Tensor, nn

from unlearn_core.concept import Concept
from unlearn_core.forgetting import prompt_plan
from unlearn_core.forgetting.unlearn import UnlearnResult, unlearn
from unlearn_core.lora.encoder_lora import EncoderLora
from unlearn_core.lora.file import lora_bytes
from unlearn_core.lora.keys import text_module
from unlearn_core.models import devices, lent_model
from unlearn_core.settings import preset
from unlearn_core.text.frozen_layers import FrozenLinear, FrozenNorm, multiplying_in, ready_in
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.token_trees import encode_all
from unlearn_core.text.tokenizer import token_ids
from unlearn_core.text.tower_encoder import TowerEncoder
from unlearn_core.training.examples import retain_examples
from unlearn_core.words.prompts import Name

CPU = torch.device("cpu")
PROMPTS = torch.cat([token_ids(text) for text in ("", "a photo of a dog", "a cat and an owl")])


def tower_in(products: torch.dtype) -> TowerEncoder:
    return tower_of(text_encoder_weights(), products=products)


def fingerprint(tower: TowerEncoder) -> str:
    return TextEncoder([tower]).fingerprint()


def error(found: Tensor, wanted: Tensor) -> float:
    """Of the whole, relative."""
    return float((found - wanted).norm() / wanted.norm())


def test_bfloat16_products_stay_near_float32_and_its_states_are_float32() -> None:
    exact, fast = tower_in(torch.float32), tower_in(torch.bfloat16)
    for tower in (exact, fast):
        tower.split_at(1)
    wanted, found = encode_all(exact, PROMPTS), encode_all(fast, PROMPTS)
    assert {part.dtype for part in found} == {torch.float32}
    assert 1e-5 < error(found[0], wanted[0]) < 0.01
    assert 1e-5 < error(found[1], wanted[1]) < 0.01
    assert 1e-5 < error(fast.tail(wanted[0]), wanted[1]) < 0.01


def test_what_is_encoded_outside_training_is_float32_to_the_last_bit() -> None:
    exact, fast = tower_in(torch.float32), tower_in(torch.bfloat16)
    encode_all(fast, PROMPTS)
    assert torch.equal(fast.encode(PROMPTS), exact.encode(PROMPTS))
    assert fingerprint(fast) == fingerprint(exact)


def test_examples_and_the_trained_tail_round_alike() -> None:
    """What an example teaches differs from what the tail gives by less than either rounds."""
    tower, exact = tower_in(torch.bfloat16), tower_in(torch.float32)
    tower.split_at(1)
    lora = EncoderLora(tower, [text_module(2, "fc2")], 4, torch.Generator().manual_seed(0))
    prompts = make_writer().keep([Name.of("cat")], 24)
    for examples in retain_examples(lora, prompts):
        rounding = error(examples.targets, exact.encode(examples.token_ids))
        with torch.no_grad():
            assert error(tower.tail(examples.states), examples.targets) < 0.75 * rounding


def test_the_gradient_reaches_the_lora_alone_and_in_float32() -> None:
    tower = tower_in(torch.bfloat16)
    tower.split_at(1)
    lora = EncoderLora(tower, [text_module(1, "q_proj")], 4, torch.Generator().manual_seed(0))
    states, _ = encode_all(tower, PROMPTS)
    tower.tail(states).square().mean().backward()
    (up,) = (lora.up(key) for key in lora.modules)
    assert up.grad is not None
    assert up.grad.dtype == torch.float32
    assert bool(up.grad.any())
    moved = [p for p in tower.model.parameters() if p.grad is not None]
    assert {id(p) for p in moved} == {id(p) for p in lora.parameters()}


def test_the_detached_tower_holds_nothing_twice_and_computes_as_before() -> None:
    tower = tower_in(torch.bfloat16)
    lora = EncoderLora(tower, [text_module(1, "q_proj")], 4, torch.Generator().manual_seed(0))
    linears = [m for m in tower.layers.modules() if isinstance(m, FrozenLinear)]
    assert any(linear.holds_twice for linear in linears)
    lora.detach()
    assert not any(linear.holds_twice for linear in linears)
    norms = [m for m in tower.layers.modules() if isinstance(m, FrozenNorm)]
    assert {norm.products for norm in norms} == {torch.float32}


def test_the_dtype_is_put_back_after_an_error() -> None:
    layer = nn.ModuleList([FrozenLinear(4, 4), FrozenNorm(4)])

    def fail() -> None:
        with multiplying_in(layer, torch.bfloat16), ready_in(layer, torch.bfloat16):
            assert layer[1](torch.ones(1, 4)).dtype == torch.bfloat16
            assert layer[0].holds_twice
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert layer[1](torch.ones(1, 4)).dtype == torch.float32
    assert not layer[0].holds_twice


@pytest.mark.parametrize(
    ("fast", "expected"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
    ],
)
def test_products_are_bfloat16_where_that_is_fast_and_never_float16(
    fast: torch.dtype, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "default_compute_dtype", lambda device: fast)
    assert devices.text_products_dtype(CPU) == expected


@pytest.fixture
def run_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[torch.dtype, int], UnlearnResult]:
    def run(products: torch.dtype, steps: int) -> UnlearnResult:
        monkeypatch.setattr(prompt_plan, "KEPT_FIRST", 4)  # of more the last ones lie too close
        monkeypatch.setattr(lent_model, "text_products_dtype", lambda device: products)
        settings = preset("quick", **small_settings(steps=steps, layers="last:1"))
        return unlearn(TinyModel(), Concept("dog", keep=("cat",)), settings)

    return run


@pytest.mark.parametrize("steps", [0, 6])
def test_the_lora_is_the_same_up_to_rounding(
    steps: int, run_in: Callable[[torch.dtype, int], UnlearnResult]
) -> None:
    exact, fast = (run_in(dtype, steps) for dtype in (torch.float32, torch.bfloat16))
    assert (fast.stand_in.word, fast.kept) == (exact.stand_in.word, exact.kept)
    key = text_module(LAST_USED, "fc2")
    assert error(fast.lora.pairs[key].delta(), exact.lora.pairs[key].delta()) < 0.05
    hashes = {result.lora.metadata["unlearn_base_model_hash"] for result in (exact, fast)}
    assert len(hashes) == 1


def test_the_same_seed_gives_the_same_file_in_bfloat16_too(
    run_in: Callable[[torch.dtype, int], UnlearnResult],
) -> None:
    one, other = (run_in(torch.bfloat16, 4) for _ in range(2))
    assert lora_bytes(one.lora) == lora_bytes(other.lora)
