"""One text encoder at each strength of a LoRA, or on the line to another encoder."""

from __future__ import annotations

import pytest
import torch
from tiny_model import LAST_USED, TinyModel, text_encoder_weights, tiny_encoder, tower_of

from unlearn_core.errors import BadSettings, WrongModel
from unlearn_core.lora.keys import ModuleKey, text_module, weight_name
from unlearn_core.lora.weights import LoraPair, LoraWeights, apply_lora
from unlearn_core.measuring.scaled_encoder import ScaledEncoder
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.words.prompts import whole_prompts

STRENGTHS = (-1.0, 0.5, 1.5, 1.0, 0.0)
IDS = whole_prompts(["a photo of a dog", "a cat"]).token_ids
WORDS = "text_model.embeddings.token_embedding.weight"


def make_lora(*keys: ModuleKey, size: float = 0.1) -> LoraWeights:
    weights = text_encoder_weights()
    pairs = {}
    for number, key in enumerate(keys):
        out, into = weights[weight_name(key)].shape
        generator = torch.Generator().manual_seed(number)
        down = torch.randn(2, into, generator=generator)
        pairs[key] = LoraPair(down, torch.randn(out, 2, generator=generator) * size, 2.0)
    return LoraWeights(pairs)


LORA = make_lora(text_module(0, "q_proj"), text_module(2, "fc2"))


class HalfModel(TinyModel):
    """Lends its matrices in float16."""

    def text_encoder_weights(self) -> dict[str, torch.Tensor]:
        lent = super().text_encoder_weights()
        return {name: value.half() if value.dim() == 2 else value for name, value in lent.items()}


def tokens_of(encoder: TextEncoder) -> torch.Tensor:
    return encoder.condition(IDS).tokens


def encoded(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return tokens_of(TextEncoder([tower_of(weights)]))


@pytest.mark.parametrize("model", [TinyModel(), HalfModel()], ids=["float32", "float16"])
def test_each_strength_is_that_of_an_encoder_built_for_it(model: TinyModel) -> None:
    scaled = ScaledEncoder.with_lora(model, LORA)
    assert tokens_of(scaled.encoder).equal(encoded(model.text_encoder_weights()))
    for strength in STRENGTHS:
        expected = encoded(apply_lora(model.text_encoder_weights(), LORA, strength))
        assert tokens_of(scaled.set_strength(strength)).equal(expected)


def test_the_lent_weights_are_not_written_to() -> None:
    model = TinyModel()
    model.text_encoder_weights = lambda: model._weights  # type: ignore[method-assign]
    before = model.checksum()
    ScaledEncoder.with_lora(model, LORA).set_strength(1.0)
    assert model.checksum() == before


def test_a_layer_that_conditions_nothing_is_left_out() -> None:
    scaled = ScaledEncoder.with_lora(TinyModel(), make_lora(text_module(LAST_USED + 1, "q_proj")))
    assert tokens_of(scaled.set_strength(1.0)).equal(tokens_of(tiny_encoder()))


def test_strength_moves_along_the_line_through_two_encoders() -> None:
    model, after = TinyModel(), text_encoder_weights()
    name = weight_name(text_module(1, "fc1"))
    after[name] += 1.0
    after[WORDS][1000:] += 1.0
    scaled = ScaledEncoder.between(model, after)
    assert tokens_of(scaled.set_strength(0.0)).equal(encoded(text_encoder_weights()))
    assert tokens_of(scaled.set_strength(1.0)).equal(encoded(after))
    beyond = text_encoder_weights()
    for changed in (name, WORDS):
        beyond[changed] = torch.lerp(beyond[changed], after[changed], -1.0)
    assert tokens_of(scaled.set_strength(-1.0)).equal(encoded(beyond))


@pytest.mark.parametrize("other", [{}, {WORDS: torch.zeros(3)}])
def test_encoders_of_two_models_are_refused(other: dict[str, torch.Tensor]) -> None:
    with pytest.raises(WrongModel, match="two different models"):
        ScaledEncoder.between(TinyModel(), {**text_encoder_weights(), **other} if other else {})


def test_a_strength_that_is_too_great_is_refused() -> None:
    with pytest.raises(BadSettings, match="take a smaller strength"):
        ScaledEncoder.with_lora(TinyModel(), LORA).set_strength(1e39)
    after = text_encoder_weights()
    after[WORDS] *= float("inf")
    with pytest.raises(WrongModel, match=r"At strength 1 .*is not finite"):
        ScaledEncoder.between(TinyModel(), after).set_strength(1.0)
