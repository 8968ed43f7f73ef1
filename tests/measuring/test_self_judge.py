"""The unchanged model as the judge of pictures."""

from __future__ import annotations

import pytest
import torch
from tiny_model import TinyModel
from torch import Tensor

from unlearn_core.files.pictures import read_pictures
from unlearn_core.loaders.demo_model import demo_folder
from unlearn_core.loaders.diffusers_model import load_model
from unlearn_core.measuring.self_judge import SelfJudge
from unlearn_core.models.lent_model import LentModel, build_encoder
from unlearn_core.text.conditioning import Conditioning
from unlearn_core.text.tokenizer import token_ids

WORDS = ("dog", "cat", "fox", "wolf", "pig", "car")


class CountingModel(TinyModel):
    """Counts the pictures that go through its UNet."""

    def __init__(self) -> None:
        super().__init__()
        self.predicted = 0

    def predict(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        self.predicted += len(latents)
        return super().predict(latents, timesteps, text)


def judge_of(model: LentModel, template: str = "a photo of a {}") -> SelfJudge:
    encoder = build_encoder(model)
    with torch.no_grad():
        texts = {word: encoder.condition(token_ids(template.format(word))) for word in WORDS}
        empty = encoder.condition(token_ids(""))
    return SelfJudge(model, texts, empty, WORDS[:5], 0)


def test_the_demo_model_reads_pictures_that_it_did_not_draw() -> None:
    judge = judge_of(load_model("demo")[0])
    dogs, cats = (
        torch.stack(read_pictures(demo_folder() / "pictures" / name)[:4]) for name in ("dog", "cat")
    )
    judge.see_own(dogs)
    assert judge.read(dogs, "dog") == ["dog"] * 4
    assert judge.read(cats, "dog") == ["cat"] * 4
    nothing = torch.randn(dogs.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert "dog" not in judge.read(nothing, "dog")


@pytest.mark.parametrize(("is_distilled", "each"), [(False, 19), (True, 7)])
def test_six_words_cost_no_more_than_drawing(is_distilled: bool, each: int) -> None:
    model = CountingModel()
    model.is_distilled = is_distilled
    judge = judge_of(model)
    pixels = torch.zeros(3, 3, 64, 64)
    model.predicted = 0
    read = judge.read(pixels, "car")
    assert model.predicted == 3 * each
    assert set(read) <= {*WORDS, None}
    model.predicted = 0
    judge.read(pixels, "dog")  # which it is compared with already
    assert model.predicted == 3 * (each - 1)


def test_what_it_reads_is_the_same_every_time() -> None:
    judge = judge_of(TinyModel())
    pixels = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    assert judge.read(pixels, "car") == judge.read(pixels, "car")
    assert judge.as_judge().look(pixels, "boat") == ()
