"""A run is fitted into memory before it starts, or refused with its numbers."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator

import pytest
import torch
from tiny_model import (
    TinyModel,
    make_settings,
    pictures,
    small_settings,
    text_encoder_weights,
)
from torch import Tensor

from unlearn_core.concept import Concept
from unlearn_core.errors import Cancelled, NotEnoughMemory
from unlearn_core.forgetting import run
from unlearn_core.forgetting.memory_estimate import (
    DRAWING,
    FORGETTING,
    LEARNING,
    TextSizes,
    Workload,
)
from unlearn_core.forgetting.memory_plan import MemoryPlan, plan_memory, rows_that_fit, text_sizes
from unlearn_core.forgetting.run import UnlearnRun
from unlearn_core.forgetting.unlearn import learn_vectors, unlearn
from unlearn_core.loaders.demo_model import load_demo_pipeline
from unlearn_core.loaders.diffusers_model import DiffusersModel
from unlearn_core.loaders.model_configs import published_configs
from unlearn_core.models.denoising import BATCH_PIXELS
from unlearn_core.models.families import SD2 as FULL_SIZE
from unlearn_core.models.lent_model import Stoppable
from unlearn_core.models.unet_sizes import UnetSizes
from unlearn_core.progress import SilentMonitor
from unlearn_core.reporting.lines import run_lines
from unlearn_core.settings import preset
from unlearn_core.text.conditioning import Conditioning

SD2 = UnetSizes.from_config(published_configs(FULL_SIZE)["unet"])
SD2_TEXT = TextSizes(49408, 1024, 4096, 23, half=True)
GB = 10**9
WITH_PICTURES = Concept("dog", images=pictures())


def full_size(prediction_size: int = 768) -> TinyModel:
    """Says that it is as large as SD2 and computes in half precision; nothing is computed."""
    model = TinyModel()
    model.unet_sizes, model.native_size = SD2, prediction_size
    model.compute_dtype = torch.float16
    return model


def plan(free: int | None, name: str = "balanced", size: int = 768) -> MemoryPlan:
    return plan_memory(full_size(size), [SD2_TEXT], Workload(preset(name), 5, previews=True), free)


def test_with_much_memory_nothing_is_saved() -> None:
    made = plan(80 * GB)
    assert (made.rows, made.asked_rows, made.checkpointing, made.drawn) == (8, 8, False, 32)
    assert made.free == 80 * GB
    assert made.needed < 80 * GB


def test_the_batch_falls_first_then_blocks_recompute_and_only_then_it_is_refused() -> None:
    ways = []
    for tenths in range(400, 0, -1):
        try:
            made = plan(tenths * GB // 10)
        except NotEnoughMemory:
            ways.append(None)
            continue
        assert made.needed <= tenths * GB // 10
        ways.append((made.rows, made.checkpointing))
    steps = list(dict.fromkeys(ways))
    assert steps[:4] == [(8, False), (4, False), (2, False), (1, False)]
    assert steps[4][1] is True
    assert steps[-1] is None
    assert steps[-2] == (1, True)


def test_drawing_alone_is_done_in_parts_too() -> None:
    made = plan(5 * GB)
    assert 1 <= made.drawn < 32
    assert made.stage in (LEARNING, DRAWING, FORGETTING)


def test_a_refusal_names_the_numbers_and_a_way_out() -> None:
    with pytest.raises(NotEnoughMemory) as refused:
        plan(2 * GB)
    words = str(refused.value)
    found = re.search(r"needs about (\d+\.\d) GB .* and 2\.0 GB are free", words)
    assert found, words
    assert float(found[1]) > 2
    quick = plan(80 * GB, "quick").needed / GB
    assert "even with one picture at a time and gradient checkpointing" in words
    assert re.search(r"choose the preset quick, which needs \d\.\d GB", words)
    assert quick > 0


def test_what_draws_only_a_stand_in_counts_no_vae() -> None:
    model = full_size()
    model.device = torch.device("cuda")
    settings = preset("quick", stand_in_pictures=2)
    unseen = plan_memory(model, [SD2_TEXT], Workload(settings), None)
    seen = plan_memory(model, [SD2_TEXT], Workload(settings, previews=True), None)
    assert (unseen.drawn, unseen.stage) == (4, DRAWING)
    assert unseen.needed < seen.needed


def test_where_memory_is_not_known_large_pictures_recompute_and_nothing_is_refused() -> None:
    made = plan(None)
    assert (made.rows, made.checkpointing, made.drawn) == (8, True, 32)
    assert plan(None, size=64).checkpointing is False
    assert "free" not in made.in_words()


def test_presets_without_the_unet_do_not_count_it() -> None:
    model = full_size()
    made = plan_memory(model, [SD2_TEXT], Workload(preset("quick"), 5), None)
    model.unet_sizes = None
    assert plan_memory(model, [SD2_TEXT], Workload(preset("quick"), 5), None) == made
    assert (made.rows, made.drawn, made.checkpointing, made.complete) == (0, 0, False, True)
    assert not plan_memory(model, [SD2_TEXT], Workload(preset("paper"), 5), None).complete


def small(free: int | None) -> TinyModel:
    model = TinyModel()
    model.unet_sizes, model.free = UnetSizes((10,), (1,), 1, 64), free
    return model


def test_a_run_that_does_not_fit_is_refused_before_anything_is_drawn() -> None:
    model = small(free=1000)
    with pytest.raises(NotEnoughMemory, match="Not enough memory"):
        unlearn(model, WITH_PICTURES, make_settings())
    assert model.calls["predict"] == model.calls["encode_image"] == 0
    with pytest.raises(NotEnoughMemory):
        learn_vectors(model, WITH_PICTURES, make_settings(), SilentMonitor())


class Watched(TinyModel):
    """Remembers how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.unet_sizes = UnetSizes((10,), (1,), 1, 64)
        self.seen: set[tuple[bool, int, bool]] = set()

    def predict(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        wants = torch.is_grad_enabled() and text.requires_grad
        self.seen.add((wants, len(latents), self.checkpointing))
        return super().predict(latents, timesteps, text)


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """A model for which every plan takes one picture at a time and checkpointing."""
    made = MemoryPlan(9 * GB, LEARNING, True, 8 * GB, 2, 1, 3, True)
    monkeypatch.setattr("unlearn_core.forgetting.run.plan_memory", lambda *_, **__: made)
    return Watched()


def test_a_run_does_as_planned_and_gives_the_hosts_way_back(tight: Watched) -> None:
    settings = preset("paper", **small_settings(use_pictures=True))
    result = unlearn(tight, WITH_PICTURES, settings)
    assert {seen for seen in tight.seen if seen[0]} == {(True, 1, True)}
    assert max(rows for wants, rows, _ in tight.seen if not wants) == 3
    assert tight.checkpointing is False
    assert tight.calls["encode_image"] == 1
    plain = unlearn(TinyModel(), WITH_PICTURES, settings)
    for key, pair in plain.lora.pairs.items():
        assert torch.allclose(pair.up, result.lora.pairs[key].up, atol=1e-2)
    assert "memory: estimated about 9.0 GB beside the model" in "\n".join(run_lines(result))
    assert result.memory.used is None


def test_the_hosts_way_comes_back_when_a_run_is_stopped(tight: Watched) -> None:
    class Stop(SilentMonitor):
        def should_stop(self) -> bool:
            return tight.calls["predict"] > 3

    with pytest.raises(Cancelled):
        unlearn(tight, WITH_PICTURES, make_settings(), Stop())
    assert tight.checkpointing is False


def test_the_estimate_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="unlearn_core.forgetting.memory_plan"):
        plan(80 * GB)
    assert re.search(r"memory: about \d+\.\d GB beside the model.*; 80\.0 GB free", caplog.text)


def test_pictures_are_encoded_once_for_inversion_and_loss() -> None:
    model = TinyModel()
    settings = preset("paper", **small_settings(use_pictures=True))
    UnlearnRun(model, (WITH_PICTURES,), settings, SilentMonitor()).go()
    assert model.calls["encode_image"] == 1


def test_predictions_without_gradient_go_in_parts_and_are_the_same() -> None:
    model = Watched()
    parts = Stoppable(model, SilentMonitor(), drawn=2)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(5, 4, 8, 8, generator=generator)
    tokens, steps = torch.randn(5, 77, 64, generator=generator), torch.arange(5)
    text = Conditioning(tokens)
    whole = TinyModel().predict(latents, steps, text)
    assert torch.allclose(parts.predict(latents, steps, text), whole, atol=1e-6)
    assert model.seen == {(False, 2, False), (False, 1, False)}
    assert len(parts.predict(latents, steps, Conditioning(tokens.requires_grad_(True)))) == 5
    assert (True, 5, False) in model.seen


def test_measuring_draws_as_many_as_fit() -> None:
    model = full_size(512)
    assert rows_that_fit(model, 64) == 64
    model.free = 3 * GB
    one = SD2.drawing(64, 64) * 2
    assert rows_that_fit(model, 64) == 3 * GB // (2 * one)
    model.free = 1
    assert rows_that_fit(model, 64) == 1


def test_what_comes_before_and_after_a_run_is_planned_too() -> None:
    model = full_size()
    quick = Workload(preset("quick"))
    alone, measured, named = (
        plan_memory(model, [SD2_TEXT], work, 80 * GB)
        for work in (
            quick,
            dataclasses.replace(quick, measures=True),
            dataclasses.replace(quick, finds_name=True),
        )
    )
    assert (alone.drawn, named.drawn) == (0, BATCH_PIXELS // 96**2)
    assert alone.needed < measured.needed
    assert alone.needed < named.needed
    with pytest.raises(NotEnoughMemory, match="most of it for measuring"):
        plan_memory(model, [SD2_TEXT], dataclasses.replace(quick, measures=True), alone.needed)


def test_nothing_is_copied_onto_the_device_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "build_encoder", lambda *_: pytest.fail("copied"))
    with pytest.raises(NotEnoughMemory):
        unlearn(small(free=1000), WITH_PICTURES, make_settings())


def test_sizes_are_read_from_the_lent_weights() -> None:
    read = text_sizes(TinyModel(), text_encoder_weights())
    assert read == [TextSizes(49408, 64, 96, 3, half=False)]


def test_a_run_holds_no_copy_of_the_unet() -> None:
    model = DiffusersModel(load_demo_pipeline(), torch.float32)
    unet = model.pipeline.unet
    places = {name: weight.data_ptr() for name, weight in unet.named_parameters()}
    settings = make_settings(steps=1, objective="ascent", stand_in_pictures=0)
    held = UnlearnRun(model, (WITH_PICTURES,), settings, SilentMonitor())
    _, losses = held.go()
    assert {name: weight.data_ptr() for name, weight in unet.named_parameters()} == places
    own = {id(p) for part in (unet, model.pipeline.vae) for p in part.parameters()}
    (tower,) = held.encoder.towers
    made = [p for p in tower.model.parameters() if id(p) not in own]
    copied = sum(p.numel() * p.element_size() for p in made)
    (sizes,) = text_sizes(model, model.text_encoder_weights())
    assert copied == pytest.approx(sizes.copy_bytes, rel=0.01)
    assert len(losses) == 1
