"""Before and after from one text encoder."""

from __future__ import annotations

import pytest
import torch
from tiny_model import TinyModel

from unlearn_core.concept import Concept
from unlearn_core.lora.keys import text_module
from unlearn_core.lora.metadata import Forgotten
from unlearn_core.lora.weights import LoraPair, LoraWeights, apply_lora
from unlearn_core.measuring import drawing
from unlearn_core.measuring.evaluation import (
    Evaluation,
    Group,
    evaluate,
    forgotten_by_nearness,
)
from unlearn_core.measuring.judge import Judge
from unlearn_core.measuring.scaled_encoder import ScaledEncoder
from unlearn_core.measuring.strength_curve import CurvePoint
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.models.sampling import draw_pictures, paired_noise
from unlearn_core.progress import SilentMonitor
from unlearn_core.reporting.lines import main_numbers
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.training.losses import drift
from unlearn_core.words.prompts import whole_prompts

DOG = Forgotten(Concept("dog", ("puppy",)), ("dog", "puppy"), "cat", ("fox", "wolf"))
UP = torch.randn(96, 2, generator=torch.Generator().manual_seed(0))
LORA = LoraWeights({text_module(2, "fc1"): LoraPair(torch.ones(2, 64), UP, 2.0)})


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> TinyModel:
    monkeypatch.setattr(drawing, "DRAW_STEPS", 1)
    return TinyModel()


def measured(model: TinyModel, judge: Judge | None = None) -> Evaluation:
    scaled = ScaledEncoder.with_lora(model, LORA)
    return evaluate(model, DOG, scaled, 3, SilentMonitor(), judge)


def test_one_text_encoder_is_built_for_all_strengths(
    model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, build = [], TextEncoder.__init__

    def counted(self: TextEncoder, *arguments: object) -> None:
        built.append(self)
        build(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TextEncoder, "__init__", counted)
    measured(model)
    assert len(built) == 1


def test_pictures_and_drift_are_those_of_the_two_encoders(model: TinyModel) -> None:
    evaluation = measured(model)
    group = evaluation.groups[0]
    before = build_encoder(model)
    after = build_encoder(model, apply_lora(model.text_encoder_weights(), LORA))
    ids = whole_prompts([group.prompt, ""]).token_ids
    noise = torch.cat([paired_noise(3, i, 64, 64) for i in range(4)])
    for encoder, pictures in ((before, group.before), (after, group.after)):
        text = encoder.condition(ids)
        assert draw_pictures(model, text[:1].expand(4), text[1:], noise, 1).equal(pictures)
    empty = whole_prompts([""]).token_ids
    moved = float(drift(after.condition(empty).tokens, before.condition(empty).tokens))
    assert evaluation.drift_of_empty == pytest.approx(moved, rel=1e-4)
    assert moved > 0.001


def test_a_judge_is_asked_only_about_what_it_can_name(model: TinyModel) -> None:
    seen = ("dog",) * 3 + (None,)
    judge = Judge("a test", frozenset({"dog"}), lambda pixels, _: [*seen][: len(pixels)])
    groups = measured(model, judge).groups
    assert [(g.word, g.read_before, g.seen_after) for g in groups[:3]] == [
        ("dog", seen, 3), ("puppy", seen, 3), ("fox", (), 0)
    ]  # fmt: skip


def numbers_of(way: float, before: int = 0, after: int = 0, judged: int = 0) -> str:
    """The report's first line on a concept that moved so far, and that a judge saw so often."""
    pictures = torch.zeros(1, 3, 8, 8)
    read = [("dog",) * seen + (None,) * (judged - seen) for seen in (before, after)]
    group = Group("concept", "dog", "a photo of a dog", pictures, pictures, "dog", *read)
    point = CurvePoint(1.0, way, 1.0, pictures, pictures)
    return main_numbers(Evaluation(DOG, (group,), 0.0, {}, {}, (point,), 1.0, 0, "a test"))[0]


@pytest.mark.parametrize(
    ("line", "start", "end"),
    [
        (numbers_of(0.97), "forgotten: its prompts moved 97% of the way to 'cat'", "not trained)"),
        (numbers_of(0.53), "not forgotten: its prompts moved 53% of the way", "or more steps."),
        (numbers_of(-1.0), "not forgotten: its prompts moved away from 'cat'", "or more steps."),
        (
            numbers_of(0.97, 16, 8, 16),
            "not forgotten: dog seen by a test in 16 of 16 pictures before, 8 after (28% to 72%)",
            "or more steps.",
        ),
        (
            numbers_of(0.7, 16, 0, 16),
            "forgotten: dog seen by a test in 16 of 16 pictures before, 0 after (0% to 19%)",
            "not trained)",
        ),
        (
            numbers_of(0.9, 12, 0, 16),
            "forgotten: pictures not readable, since a test sees dog in 12 of its 16 before; its",
            "not trained)",
        ),
        (numbers_of(0.7, 12, 0, 16), "not forgotten: pictures not readable", "or more steps."),
    ],
)
def test_what_moved_too_little_or_is_still_seen_is_not_called_forgotten(
    line: str, start: str, end: str
) -> None:
    assert line.startswith(start)
    assert line.endswith(end)


def test_what_is_chosen_by_nearness_is_near(model: TinyModel) -> None:
    said = forgotten_by_nearness(build_encoder(model), Concept("dog"), 0)
    assert said.stand_in in said.kept
    assert said.names == ("dog",)
