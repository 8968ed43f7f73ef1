"""A whole run on the other families: what is forgotten, kept, written and left alone."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny_families import TinyFamily, TinySd1, TinySdxl
from tiny_model import Recorder, TinyModel, pictures, small_settings

from unlearn_core.concept import Concept
from unlearn_core.errors import WrongModel
from unlearn_core.forgetting.unlearn import UnlearnResult, unlearn, unlearn_together
from unlearn_core.lora.file import load_lora, save_lora
from unlearn_core.lora.weights import LoraWeights, apply_lora
from unlearn_core.measuring.evaluation import evaluate
from unlearn_core.measuring.scaled_encoder import ScaledEncoder
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.progress import FORGETTING, PREPARING, SilentMonitor
from unlearn_core.settings import PRESETS, preset
from unlearn_core.text.tokenizer import token_ids

DOG = Concept("dog", stand_in="owl", images=pictures())
MODELS = (TinySd1, TinySdxl)


def run(model: TinyModel, name: str = "quick", **changes: object) -> UnlearnResult:
    return unlearn(model, DOG, preset(name, **small_settings(**changes)), Recorder())


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs_and_leaves_the_model_as_it_was(
    kind: type[TinyFamily], name: str
) -> None:
    model = kind()
    before = model.checksum()
    result = run(model, name)
    assert model.checksum() == before
    assert {key.part for key in result.lora.pairs} == {t.part for t in model.family.towers}
    assert result.part.moved is not None
    assert result.part.moved.share > 0.005
    assert result.lora.family is model.family


@pytest.mark.parametrize("kind", MODELS)
def test_each_tower_moves_the_name_to_the_stand_in(kind: type[TinyFamily]) -> None:
    model = kind()
    result = run(model, forget_prompts=120, keep_prompts=20, rank=32)
    before = build_encoder(model)
    after = build_encoder(model, apply_lora(model.text_encoder_weights(), result.lora))
    dog, owl = (token_ids(f"a photo of a {word}") for word in ("dog", "owl"))
    named = slice(5, 7)
    for own, wanted, now in zip(
        before.states(dog), before.states(owl), after.states(dog), strict=True
    ):
        way = (own - wanted)[:, named].norm()
        assert float((now - wanted)[:, named].norm() / way) < 0.7


@pytest.mark.parametrize("kind", MODELS)
def test_the_empty_prompt_stays(kind: type[TinyFamily]) -> None:
    model = kind()
    result = run(model, "balanced", forget_prompts=60, keep_prompts=30, steps=60)
    before = build_encoder(model)
    after = build_encoder(model, apply_lora(model.text_encoder_weights(), result.lora))
    texts = [token_ids(text) for text in ("", "a photo of a dog")]
    (empty, dog), (empty_now, dog_now) = (
        [side.condition(ids).tensors for ids in texts] for side in (before, after)
    )
    for own, now, was, moved in zip(empty, empty_now, dog, dog_now, strict=True):
        assert float((now - own).norm()) < 0.25 * float((moved - was).norm())


def test_without_the_layers_behind_the_conditioning_layer_the_pooled_vector_is_followed() -> None:
    """The last fc2 of SDXL's second tower moves nothing but the pooled vector."""
    model = TinySdxl()
    result = run(model)
    last = [key for key in result.lora.pairs if key.part == "te2" and key.layer == 4]
    assert {key.module for key in last} >= {"fc2"}
    changed = dict(result.lora.pairs)
    for key in last:
        del changed[key]
    weights = model.text_encoder_weights()
    whole, less = (
        build_encoder(model, apply_lora(weights, lora)).condition(token_ids("a photo of a dog"))
        for lora in (result.lora, LoraWeights(changed))
    )
    assert torch.equal(whole.tokens, less.tokens)
    assert whole.pooled is not None
    assert less.pooled is not None
    assert not torch.equal(whole.pooled, less.pooled)


def test_one_tower_is_trained_after_the_other_and_the_bar_goes_on() -> None:
    monitor = Recorder()
    unlearn(TinySdxl(), DOG, preset("balanced", **small_settings(steps=5)), monitor)
    steps = [r.step for r in monitor.reports if r.stage == FORGETTING and r.total]
    assert steps == list(range(1, 11))
    prepared = [r for r in monitor.reports if r.stage == PREPARING and r.total]
    assert [report.step for report in prepared] == [1, 2, 3, 4]
    assert {report.total for report in prepared} == {4}


def test_equal_seeds_give_equal_files() -> None:
    first, second = (run(TinySdxl(), "balanced").lora for _ in range(2))
    for key, pair in first.pairs.items():
        assert torch.equal(pair.up, second.pairs[key].up)


def test_several_concepts_share_a_run() -> None:
    settings = preset("quick", **small_settings())
    result = unlearn_together(TinySdxl(), [DOG, Concept("car", stand_in="bus")], settings)
    assert all(part.moved is not None and part.moved.share > 0.1 for part in result.parts)


@pytest.mark.parametrize("kind", MODELS)
def test_the_file_says_its_family_and_comes_back_as_it_was(
    kind: type[TinyFamily], tmp_path: Path
) -> None:
    model = kind()
    lora, file = run(model).lora, tmp_path / "forget-dog.safetensors"
    save_lora(lora, file)
    again = load_lora(file)
    assert again.family is model.family
    assert again.pairs.keys() == lora.pairs.keys()
    assert all(torch.equal(again.pairs[key].up, pair.up) for key, pair in lora.pairs.items())
    with safe_open(file, "pt") as opened:
        prefixes = {name.split("_text_model_")[0] for name in opened.keys()}  # noqa: SIM118
        said = opened.metadata()
    assert prefixes == {f"lora_{tower.part}" for tower in model.family.towers}
    for name, value in model.family.file_metadata.items():
        assert said[name] == value


@pytest.mark.parametrize(
    ("made_for", "given", "message"),
    [
        (TinySdxl, TinyModel, "made for SDXL, and this model is Stable Diffusion 2"),
        (TinyModel, TinySdxl, "made for Stable Diffusion 2, and this model is SDXL"),
        (TinySd1, TinyModel, "made for Stable Diffusion 1, and this model is Stable Diffusion 2"),
    ],
)
def test_a_lora_of_one_family_is_refused_by_another(
    made_for: type[TinyModel], given: type[TinyModel], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "forget-dog.safetensors"
    save_lora(run(made_for()).lora, file)
    with pytest.raises(WrongModel, match=message):
        ScaledEncoder.with_lora(given(), load_lora(file))


@pytest.mark.parametrize("kind", MODELS)
def test_the_result_is_measured(kind: type[TinyFamily]) -> None:
    model = kind()
    result = run(model)
    scaled = ScaledEncoder.with_lora(model, result.lora)
    found = evaluate(model, result.forgotten, scaled, 0, SilentMonitor())
    at_full = next(point for point in found.curve if point.strength == 1.0)
    at_none = next(point for point in found.curve if point.strength == 0.0)
    assert at_none.forgotten == pytest.approx(0, abs=1e-6)
    assert at_full.forgotten > 0.1
    assert found.drift_of_empty < 0.2


def test_a_turbo_model_is_drawn_without_its_negative_branch() -> None:
    model = TinySdxl()
    model.is_distilled = True
    result = run(model, "balanced")
    rows: list[int] = []
    predict = model._run_unet

    def counted(latents, timesteps, text):  # type: ignore[no-untyped-def]
        rows.append(len(latents))
        return predict(latents, timesteps, text)

    model._run_unet = counted  # type: ignore[method-assign]
    evaluate(model, result.forgotten, ScaledEncoder.with_lora(model, result.lora), 0,
             SilentMonitor())  # fmt: skip
    assert set(rows) == {2, 4}
