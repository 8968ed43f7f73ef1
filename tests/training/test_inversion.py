"""Textual inversion on the tiny model."""

from typing import Any

import pytest
import torch
from tiny_model import UNKNOWN, WIDTH, Recorder, TinyModel, make_settings, pictures, tiny_encoder
from torch import Tensor

from unlearn_core.concept import Concept
from unlearn_core.errors import Cancelled, TrainingFailed
from unlearn_core.models.denoising import denoising_losses
from unlearn_core.models.families import Prediction
from unlearn_core.models.sampling import encode_pictures
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import VOCABULARY, token_ids, tokenize
from unlearn_core.training import inversion
from unlearn_core.training.inversion import LearnedVectors, invert, starting_vectors
from unlearn_core.words.prompts import fill, make_prompts

DOG = Concept("dog", images=pictures())


def run(
    model: TinyModel, concept: Concept = DOG, monitor: Recorder | None = None,
    encoder: TextEncoder | None = None, styles: tuple[str, ...] = ("anime", "mosaic"),
    **changes: Any,
) -> LearnedVectors:  # fmt: skip
    settings = make_settings(**{"inversion_steps": 6, "inversion_batch": 4, **changes})
    encoder = encoder or tiny_encoder()
    return invert(model, encoder, concept, settings, styles, monitor or Recorder())


@torch.no_grad()
def loss_of(model: TinyModel, vectors: Tensor, template: str = "a photo of {it}") -> float:
    """Of the pictures, over many timesteps, with the vectors as the concept's name."""
    ids = make_prompts([fill(template, LearnedVectors(vectors, (), 1.0).name(DOG))]).token_ids
    latents = encode_pictures(model, DOG.images)
    text = tiny_encoder().condition(ids, vectors).expand(len(latents))
    return float(denoising_losses(model, latents, text, range(10, 1000, 60), 5).mean())


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_the_pictures_are_denoised_better_afterwards(prediction: Prediction) -> None:
    model = TinyModel(prediction)
    learned = run(model, styles=(), inversion_steps=60, inversion_learning_rate=0.1)
    start = starting_vectors(tiny_encoder(), "dog", 1)
    assert loss_of(model, learned.vectors) < loss_of(model, start) - 0.005
    assert len(learned.losses) == 60


def test_only_the_vectors_move() -> None:
    model, encoder = TinyModel(), tiny_encoder()
    checksum = model.checksum()
    before = {name: p.clone() for name, p in encoder.towers[0].model.named_parameters()}
    learned = run(model, encoder=encoder)
    start = starting_vectors(encoder, "dog", 1)
    assert learned.vectors.shape == (1, WIDTH)
    assert learned.vectors.dtype == torch.float32
    assert not learned.vectors.requires_grad
    assert all(not torch.equal(row, old) for row, old in zip(learned.vectors, start, strict=True))
    for name, parameter in encoder.towers[0].model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
    assert model.checksum() == checksum


def test_no_steps_leave_the_word_as_it_is() -> None:
    learned = run(TinyModel(), inversion_steps=0)
    assert torch.equal(learned.vectors, starting_vectors(tiny_encoder(), "dog", 1))
    assert learned.explained == pytest.approx(1, abs=1e-3) or learned.explained == 0


def test_the_same_seed_learns_the_same() -> None:
    state = torch.random.get_rng_state()
    first, again = run(TinyModel()), run(TinyModel())
    other = run(TinyModel(), seed=1)
    assert torch.equal(first.vectors, again.vectors)
    assert first.losses == again.losses
    assert first.explained == again.explained
    assert not torch.equal(first.vectors, other.vectors)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("step", [0, 3])
def test_it_stops_when_asked(step: int) -> None:
    monitor = Recorder(stop_at=step)
    with pytest.raises(Cancelled):
        run(TinyModel(), monitor=monitor)
    assert [report.step for report in monitor.reports] == list(range(1, step + 1))


def test_every_step_is_reported() -> None:
    monitor = Recorder()
    learned = run(TinyModel(), monitor=monitor)
    assert [report.loss for report in monitor.reports] == list(learned.losses)
    assert {(report.stage, report.total) for report in monitor.reports} == {
        ("learning the concept", 6)
    }


def test_a_loss_that_is_no_number_fails() -> None:
    with pytest.raises(TrainingFailed, match="at step 1"):
        run(TinyModel(broken=True), styles=())
    with pytest.raises(TrainingFailed, match="predicts for the pictures is not a number"):
        run(TinyModel(broken=True))


@pytest.mark.parametrize(
    ("explained", "accepted"),
    [(0.49, False), (0.5, True), (1.2, True), (-3.0, False), (float("nan"), False)],
)
def test_vectors_are_accepted_if_they_explain_half_of_the_word(
    explained: float, accepted: bool
) -> None:
    assert LearnedVectors(torch.zeros(1, WIDTH), (), explained).accepted is accepted


@pytest.mark.parametrize(
    ("losses", "explained"),
    [  # of the word, of the vectors, of no name
        ((1.0, 1.0, 2.0), 1.0),
        ((1.0, 1.5, 2.0), 0.5),
        ((1.0, 2.0, 2.0), 0.0),
        ((1.0, 3.0, 2.0), -1.0),
        ((2.0, 1.0, 2.0), 0.0),
        ((2.5, 1.0, 2.0), 0.0),
        ((float("nan"), 1.0, 2.0), 0.0),
    ],
)
def test_what_is_explained_is_measured_against_the_word_and_no_name(
    losses: tuple[float, ...], explained: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter(losses)
    monkeypatch.setattr(inversion, "denoising_losses", lambda *_: torch.full((3,), next(values)))
    assert run(TinyModel(), styles=(), inversion_steps=0).explained == pytest.approx(explained)


def test_the_learned_name_has_ids_beyond_the_vocabulary_and_the_concepts_article() -> None:
    learned = LearnedVectors(torch.zeros(3, WIDTH), (), 1.0)
    name = learned.name(Concept("owl"))
    assert name.ids == (VOCABULARY, VOCABULARY + 1, VOCABULARY + 2)
    assert name.takes_article
    assert not learned.name(Concept("dogs")).takes_article
    assert not learned.name(Concept("mosaic", kind="style")).takes_article


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [("dog", 1, ["dog"]), ("dog", 3, ["dog"] * 3), ("van gogh", 3, ["van", "gogh", "gogh"])],
)
def test_vectors_start_at_the_words_of_the_name(name: str, count: int, expected: list[str]) -> None:
    encoder = tiny_encoder()
    ids = [tokenize(word)[0] for word in expected]
    start = starting_vectors(encoder, name, count)
    assert torch.equal(start, encoder.word_table[ids])
    start.zero_()
    assert bool(encoder.word_table[ids].any())


def test_a_picture_is_captioned_with_the_style_that_denoises_it_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = iter([torch.tensor([3.0, 1.0]), torch.tensor([2.0, 2.0]), torch.tensor([4.0, 4.0])])
    monkeypatch.setattr(inversion, "denoising_losses", lambda *_: next(values))
    styles = ["anime", "mosaic", "manga"]
    arguments = (TinyModel(), tiny_encoder(), DOG, torch.zeros(2, 4, 8, 8), styles, 0)
    assert inversion._best_styles(*arguments) == ["mosaic", "anime"]


def test_captions_name_only_the_pictures_own_style(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    encoder = tiny_encoder()
    tower = encoder.towers[0]
    encode = tower.encode

    def watch(ids: Tensor, learned: Tensor | None = None) -> Tensor:
        if learned is not None and learned.requires_grad:
            seen.append(ids)
        return encode(ids, learned)

    monkeypatch.setattr(tower, "encode", watch)
    monkeypatch.setattr(inversion, "_best_styles", lambda *_: ["mosaic"] * len(DOG.images))
    run(TinyModel(), encoder=encoder, inversion_steps=20)
    shown = set(torch.cat(seen).flatten().tolist())
    assert tokenize("mosaic")[0] in shown
    assert tokenize("anime")[0] not in shown
    assert VOCABULARY in shown


def test_a_style_is_learned_without_captions_of_other_styles() -> None:
    learned = run(TinyModel(), Concept("mosaic", kind="style", images=pictures()))
    assert bool(learned.vectors.isfinite().all())


def test_a_word_that_the_model_does_not_know_is_learned_too() -> None:
    learned = run(TinyModel(), Concept(UNKNOWN, images=pictures()), inversion_steps=20)
    word = starting_vectors(tiny_encoder(), "dog", 1)
    assert float(learned.vectors.norm()) > 0.01 * float(word.norm()), "they stay where they were"


def test_pictures_of_any_size_are_encoded_at_the_models() -> None:
    images = (torch.zeros(3, 40, 90), torch.zeros(3, 64, 64), *pictures(5, 100))
    assert encode_pictures(TinyModel(), images).shape == (7, 4, 8, 8)


def test_a_denoising_loss_compares_texts_on_the_same_noise() -> None:
    model = TinyModel()
    latents = encode_pictures(model, DOG.images)
    texts = tiny_encoder().condition(torch.cat([token_ids("a dog"), token_ids("a cat")]))
    first, again, other = (
        denoising_losses(model, latents, text.expand(4), (200, 700), 0)
        for text in (texts[:1], texts[:1], texts[1:])
    )
    assert first.shape == (4,)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    alone = denoising_losses(model, latents[:1], texts[:1], (200, 700), 0)
    torch.testing.assert_close(alone, first[:1])
