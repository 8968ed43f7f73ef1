"""The bench at full size: its arithmetic, and a run on a tower of three layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.full_size import (
    Machine,
    RandomTextModel,
    Stage,
    as_text,
    measure,
    save_plot,
    text_only,
)
from unlearn_core.errors import BadSettings
from unlearn_core.settings import preset

SHORT = "quick:steps=1+layers=last:1+forget_prompts=8+keep_prompts=8"


def test_the_floor_is_products_and_copies_at_the_machines_rates() -> None:
    machine = Machine(matmul_flops=100e9, copy_bytes=10e9, threads=2)
    stage = Stage(
        "any", seconds=9.0, flops=200_000_000_000, copied_bytes=5_000_000_000, extra_bytes=0
    )
    assert stage.floor(machine) == pytest.approx(2.0 + 0.5)


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
    assert stages["preparing the prompts"]["flops"] > 1e9
    assert stages["forgetting"]["flops"] > 1e9
    assert stages["copying the text encoder"]["copied_bytes"] > 4 * 49408 * 1024
    assert stages["copying the text encoder"]["extra_bytes"] > 4 * 49408 * 1024
    assert numbers["seconds"] == pytest.approx(sum(s["seconds"] for s in stages.values()))
    floors = sum(stage["floor_seconds"] for stage in stages.values())
    assert numbers["floor_seconds"] == pytest.approx(floors)
    assert numbers["extra_bytes"] >= stages["copying the text encoder"]["extra_bytes"]
    assert json.loads(json.dumps(numbers)) == numbers
    assert "preparing the prompts" in as_text(numbers)
    save_plot(numbers, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
