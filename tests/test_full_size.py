"""The bench at full size: its arithmetic, and a run on a tower of three layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import bench.machine
from bench.full_size import (
    RandomTextModel,
    Stage,
    as_text,
    measure,
    save_plot,
    text_only,
)
from bench.machine import Machine, Rates, measure_machine
from bench.products import ProductCounter
from unlearn_core.errors import BadSettings
from unlearn_core.settings import preset

SHORT = "quick:steps=1+layers=last:1+forget_prompts=8+keep_prompts=8"


def test_the_floor_is_products_and_copies_at_the_machines_rates() -> None:
    wall = Rates({"float32": 100e9, "bfloat16": 400e9}, copied=10e9)
    processor = Rates({"float32": 50e9, "bfloat16": 200e9}, copied=5e9)
    flops = {"float32": 200_000_000_000, "bfloat16": 400_000_000_000}
    stage = Stage("any", 9.0, 18.0, flops, copied_bytes=5_000_000_000, extra_bytes=0)
    floor, processor_floor = stage.floors(Machine(wall, processor, threads=2))
    assert floor == pytest.approx(2.0 + 1.0 + 0.5)
    assert processor_floor == pytest.approx(4.0 + 2.0 + 1.0)


def test_products_are_counted_by_the_dtype_that_they_multiply_in() -> None:
    wide, narrow = torch.ones(3, 4), torch.ones(4, 5, dtype=torch.bfloat16)
    total = torch.zeros(4, 4)
    with ProductCounter() as counter:
        wide @ narrow.float()
        narrow.T @ narrow
        total.addmm_(wide.T, wide)
    assert counter.flops == {
        "float32": 2 * 3 * 4 * 5 + 2 * 4 * 3 * 4, "bfloat16": 2 * 5 * 4 * 5
    }  # fmt: skip


@pytest.mark.parametrize("masked", [False, True])
def test_attention_and_its_gradient_are_counted_on_a_cpu_too(masked: bool) -> None:
    query = torch.ones(2, 1, 6, 8, requires_grad=True)
    mask = torch.zeros(2, 1, 6, 6) if masked else None
    with ProductCounter() as counter:
        output = torch.nn.functional.scaled_dot_product_attention(query, query, query, mask)
    forward = 2 * 2 * (2 * 6 * 6 * 8)  # two products of two prompts
    assert counter.flops["float32"] == forward
    with ProductCounter() as counter:
        output.sum().backward()
    assert counter.flops["float32"] >= 2 * forward


def test_this_machine_has_a_rate_for_every_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.machine, "MATMUL", 64)
    monkeypatch.setattr(bench.machine, "COPIED", 2**20)
    machine = measure_machine()
    for rates in (machine.wall, machine.processor):
        assert rates.products.keys() == {"float64", "float32", "bfloat16"}
        assert min(*rates.products.values(), rates.copied) > 0


def test_the_random_tower_has_the_shape_of_sd2() -> None:
    model = RandomTextModel(torch.float16, layers=3)
    weights = model.text_encoder_weights()
    assert model.last_used_layer == 1
    assert weights["text_model.embeddings.token_embedding.weight"].shape == (49408, 1024)
    assert weights["text_model.encoder.layers.2.mlp.fc1.weight"].shape == (4096, 1024)
    assert weights["text_model.final_layer_norm.weight"].float().mean() == pytest.approx(1, abs=0.1)
    assert {value.dtype for value in weights.values()} == {torch.float16}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"use_pictures": True}, False),
        ({"use_pictures": True, "inversion_steps": 0}, True),
        ({"stand_in_pictures": 16}, False),
        ({"image_weight": 1.0}, False),
    ],
)
def test_which_settings_never_ask_for_the_unet(changes: dict, expected: bool) -> None:
    assert text_only(preset("quick", **changes)) is expected


def test_presets_with_a_unet_are_refused() -> None:
    with pytest.raises(BadSettings, match="use_pictures=False"):
        measure("balanced", "dog", torch.float16, layers=3)


def test_a_run_is_counted_stage_by_stage(tmp_path: Path) -> None:
    numbers = measure(SHORT, "dog", torch.float16, layers=3)
    stages = {stage["name"]: stage for stage in numbers["stages"]}
    assert stages["preparing the prompts"]["flops"][numbers["dtype of most products"]] > 1e9
    assert stages["forgetting"]["flops"][numbers["dtype of most products"]] > 1e9
    assert stages["least squares"]["flops"]["float32"] > 1e9
    assert stages["copying the text encoder"]["copied_bytes"] > 2 * 49408 * 1024
    assert stages["copying the text encoder"]["extra_bytes"] > 2 * 49408 * 1024
    assert numbers["seconds"] == pytest.approx(sum(s["seconds"] for s in stages.values()))
    floors = sum(stage["floor_seconds"] for stage in stages.values())
    assert numbers["floor_seconds"] == pytest.approx(floors)
    assert numbers["extra_bytes"] >= stages["copying the text encoder"]["extra_bytes"]
    assert json.loads(json.dumps(numbers)) == numbers
    assert "preparing the prompts" in as_text(numbers)
    save_plot(numbers, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
