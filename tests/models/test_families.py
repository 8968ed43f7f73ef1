"""Which family a model is of, and the one sentence for each that is not known."""

from __future__ import annotations

import pytest
import torch
from tiny_model import TinyModel

from unlearn_core.errors import WrongModel
from unlearn_core.models.families import SD2, Prediction, Seen, prediction_named, recognise
from unlearn_core.models.lent_model import build_encoder


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Seen(text_encoders=2), "this is SDXL or a newer family: it has 2 text encoders"),
        (Seen(text_width=768), r"this is SD 1\.x: its text width is 768"),
        (Seen(context_width=768), r"this is SD 1\.x"),
        (Seen(channels=9), "this is an inpainting model: its UNet takes 9 channels"),
        (Seen(channels=5), "a depth model"),
        (Seen(channels=7), "an upscaler"),
        (Seen(channels=[4]), r"another kind of model: its UNet takes \[4\] channels"),
        (Seen(extra_conditions=True), "extra conditions, as unCLIP's"),
        (Seen(text_width=64, context_width=128), "64 wide and its UNet expects 128"),
        (Seen(activation="quick_gelu"), "its activation is 'quick_gelu', not gelu"),
        (Seen(vocabulary=49410), "has 49410 tokens.*textual inversion"),
        (Seen(architecture="Flux"), "this is Flux; this pack needs Stable Diffusion 2"),
    ],
)
def test_what_is_not_known_is_refused_in_one_sentence(seen: Seen, words: str) -> None:
    with pytest.raises(WrongModel, match=f"^m.safetensors: .*{words}"):
        recognise(seen, "m.safetensors")
    with pytest.raises(WrongModel, match=r"^[A-Z]"):
        recognise(seen)


def test_what_cannot_be_told_is_no_reason_to_refuse() -> None:
    assert recognise(Seen()) is SD2
    assert recognise(Seen(text_width=64, context_width=64, channels=4, vocabulary=49408)) is SD2


@pytest.mark.parametrize(
    ("stated", "prediction", "size"),
    [(64, "epsilon", 512), (64, "v", 768), (32, "v", 768), (None, "epsilon", 512), (8, "v", 64)],
)
def test_the_size_follows_the_prediction_where_the_config_says_nothing(
    stated: int | None, prediction: Prediction, size: int
) -> None:
    assert SD2.native_size(stated, prediction) == size


def test_the_noise_schedule_is_that_of_the_schedulers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=SD2.betas[0], beta_end=SD2.betas[1]
    )
    torch.testing.assert_close(SD2.alphas_cumprod(), scheduler.alphas_cumprod)


def test_a_prediction_has_two_names_and_no_third() -> None:
    assert [prediction_named(name) for name in ("eps", "epsilon", "v", "v_prediction")] == [
        "epsilon", "epsilon", "v", "v",
    ]  # fmt: skip
    with pytest.raises(WrongModel, match=r"predicts x0; .* Load another"):
        prediction_named("x0", "Load another.")


def test_an_encoder_of_another_family_is_not_copied() -> None:
    model = TinyModel()
    name = "text_model.embeddings.token_embedding.weight"
    model._weights[name] = torch.zeros(49408, 768)
    with pytest.raises(WrongModel, match=r"SD 1\.x"):
        build_encoder(model)
