"""Which family a model is of, and the one sentence for each that is not known."""

from __future__ import annotations

import pytest
import torch

from unlearn_core.errors import WrongModel
from unlearn_core.models.families import (
    FAMILIES,
    SD1,
    SD2,
    SDXL,
    Family,
    Prediction,
    Seen,
    prediction_named,
    recognise,
)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Seen(text_encoders=3), "another family: it has 3 text encoders.*or SDXL"),
        (Seen(text_width=1280), "SDXL's refiner: it lacks the first text encoder"),
        (Seen(context_width=1280), "SDXL's refiner"),
        (Seen(text_width=64, pooled=True), "SDXL's refiner"),
        (Seen(channels=9), "this is an inpainting model: its UNet takes 9 channels"),
        (Seen(text_encoders=2, channels=9), "an inpainting model.*SDXL's takes 4"),
        (Seen(channels=8), "an editing model"),
        (Seen(channels=5), "a depth model"),
        (Seen(channels=7), "an upscaler"),
        (Seen(channels=[4]), r"another kind of model: its UNet takes \[4\] channels"),
        (Seen(extra_conditions=True), "other conditions than Stable Diffusion 2's, as unCLIP's"),
        (Seen(text_encoders=2, extra_conditions=True), "other conditions than SDXL's"),
        (Seen(text_width=64, context_width=128), "64 wide and its UNet expects 128"),
        (Seen(text_width=768, context_width=1024), "768 wide and its UNet expects 1024"),
        (
            Seen(text_encoders=2, text_width=2048, context_width=768),
            "text encoders together are 2048 wide and its UNet expects 768",
        ),
        (Seen(text_encoders=2, pooled=False), "a UNet that takes no pooled vector"),
        (Seen(text_width=1024, activations=("quick_gelu",)), "is 'quick_gelu', not gelu"),
        (Seen(text_width=768, activations=("gelu",)), "Diffusion 1.*is 'gelu', not quick_gelu"),
        (Seen(text_encoders=2, activations=("gelu",)), "SDXL.*is 'gelu', not quick_gelu"),
        (Seen(text_encoders=2, activations=("quick_gelu", "relu")), "is 'relu', not gelu"),
        (Seen(vocabulary=49410), "has 49410 tokens.*textual inversion"),
        (Seen(architecture="Flux"), "this is Flux; this pack needs Stable Diffusion 1,.*or SDXL"),
    ],
)
def test_what_is_not_known_is_refused_in_one_sentence(seen: Seen, words: str) -> None:
    with pytest.raises(WrongModel, match=f"^m.safetensors: .*{words}"):
        recognise(seen, "m.safetensors")
    with pytest.raises(WrongModel, match=r"^[A-Z]"):
        recognise(seen)


@pytest.mark.parametrize(
    ("seen", "family"),
    [
        (Seen(), SD2),
        (Seen(text_width=64, context_width=64, channels=4, vocabulary=49408), SD2),
        (Seen(text_width=1024), SD2),
        (Seen(context_width=1024), SD2),
        (Seen(text_width=768), SD1),
        (Seen(context_width=768), SD1),
        (Seen(text_width=64, activations=("quick_gelu",)), SD1),
        (Seen(text_width=64, activations=("gelu",)), SD2),
        (Seen(context_width=64, linear_projections=False), SD1),
        (Seen(context_width=64, linear_projections=True), SD2),
        (Seen(text_width=1024, linear_projections=False), SD2),
        (Seen(text_encoders=2), SDXL),
        (Seen(text_encoders=2, text_width=2048, context_width=2048, pooled=True), SDXL),
        (Seen(text_encoders=2, text_width=384, activations=("quick_gelu", "gelu")), SDXL),
    ],
)
def test_a_model_of_any_size_is_recognised_by_what_is_told(seen: Seen, family: Family) -> None:
    assert recognise(seen) is family


def test_a_lora_may_name_the_layers_that_move_what_the_unet_gets() -> None:
    last = {tower.part: tower.last_layer for tower in SDXL.towers}
    assert last == {"te1": 10, "te2": 31}
    assert [family.towers[0].last_layer for family in (SD1, SD2)] == [11, 22]
    assert [family.context_width for family in FAMILIES] == [768, 1024, 2048]
    assert [family.pooled for family in FAMILIES] == [False, False, True]


@pytest.mark.parametrize(
    ("family", "stated", "prediction", "size"),
    [
        (SD2, 64, "epsilon", 512),
        (SD2, 64, "v", 768),
        (SD2, 32, "v", 768),
        (SD2, None, "epsilon", 512),
        (SD2, 8, "v", 64),
        (SD1, 32, "epsilon", 512),
        (SD1, None, "v", 512),
        (SDXL, None, "epsilon", 1024),
        (SDXL, 32, "v", 1024),
        (SDXL, 64, "epsilon", 512),
    ],
)
def test_the_size_follows_the_prediction_where_the_config_says_nothing(
    family: Family, stated: int | None, prediction: Prediction, size: int
) -> None:
    assert family.native_size(stated, prediction) == size


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_noise_schedule_is_that_of_the_schedulers(family: Family) -> None:
    diffusers = pytest.importorskip("diffusers")
    first, last = family.betas
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=first, beta_end=last
    )
    torch.testing.assert_close(family.alphas_cumprod(), scheduler.alphas_cumprod)


def test_a_prediction_has_two_names_and_no_third() -> None:
    assert [prediction_named(name) for name in ("eps", "epsilon", "v", "v_prediction")] == [
        "epsilon", "epsilon", "v", "v",
    ]  # fmt: skip
    with pytest.raises(WrongModel, match=r"predicts x0; .* Load another"):
        prediction_named("x0", "Load another.")
