"""Numbers in a diffusers model's configs: the ones that are taken, and lines for the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unlearn_core.errors import WrongModel
from unlearn_core.loaders.model_configs import (
    check_configs,
    check_counts,
    latent_size,
    published_configs,
    scaling_factor,
)
from unlearn_core.loaders.pipeline_parts import empty_parts
from unlearn_core.models.families import SD1, SD2, SDXL, Family, Prediction


@pytest.mark.parametrize(
    ("stated", "family", "prediction", "size"),
    [
        (64, SD2, "epsilon", (64, 64)),
        (8, SD2, "v", (8, 8)),
        (None, SD2, "epsilon", (64, 64)),
        (None, SD2, "v", (96, 96)),
        (None, SD1, "epsilon", (64, 64)),
        (None, SDXL, "epsilon", (128, 128)),
        ([64, 96], SD2, "epsilon", (64, 96)),
        ((96, 64), SDXL, "v", (96, 64)),
    ],
)
def test_latents_have_the_size_that_is_said_or_the_usual_one(
    stated: Any, family: Family, prediction: Prediction, size: tuple[int, int]
) -> None:
    assert latent_size(stated, family, prediction) == size


@pytest.mark.parametrize("stated", [0, -1, 10**12, 1.5, "64", True, [], [64], [64, None], {"a": 1}])
def test_another_sample_size_is_one_line(stated: Any) -> None:
    with pytest.raises(WrongModel, match=r"sample_size is .*unet/config\.json: 96 is usual"):
        latent_size(stated, SD2, "v")


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        (SD1, [859_520_964, 83_653_863, 123_060_480]),
        (SD2, [865_910_724, 83_653_863, 340_387_840]),
        (SDXL, [2_567_463_684, 83_653_863, 123_060_480, 694_659_840]),
    ],
    ids=lambda value: getattr(value, "key", ""),
)
def test_the_shipped_configs_are_of_models_of_the_published_size(
    family: Family, parameters: list[int]
) -> None:
    configs = published_configs(family)
    del configs["scheduler"]
    parts = empty_parts(*configs.values())
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == parameters
    assert check_configs(configs["unet"], list(configs.values())[2:], "here") is family


def test_a_scaling_factor_is_a_positive_number() -> None:
    assert scaling_factor(0.18215, SD2) == 0.18215
    assert scaling_factor(1, SDXL) == 1.0
    for stated in (None, 0, -0.1, float("nan"), float("inf"), "0.18215", True, [0.1]):
        with pytest.raises(WrongModel, match=r"scaling_factor is .* 0\.13025 for SDXL"):
            scaling_factor(stated, SDXL)


@pytest.mark.parametrize(
    "config",
    [
        {"layers_per_block": 10**9},
        {"layers_per_block": None},
        {"num_hidden_layers": 2.0},
        {"transformer_layers_per_block": [[10**9]]},
        {"transformer_layers_per_block": [1] * 1000},
        {"block_out_channels": [32] * 100_000},
    ],
)
def test_models_that_would_take_for_ever_to_build_are_refused(config: dict[str, Any]) -> None:
    check_counts(Path("m"), {"layers_per_block": 2, "transformer_layers_per_block": [[1, 2], 0]})
    with pytest.raises(WrongModel, match=next(iter(config))):
        check_counts(Path("m"), config)
