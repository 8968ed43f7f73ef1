"""The model's own word for pictures that come without a name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_model import (
    NOUNS,
    Recorder,
    TinyModel,
    pictures,
    tiny_encoder,
)
from torch import Tensor

from unlearn_core.concept import Concept, Kind, Nameless
from unlearn_core.errors import BadConcept, Cancelled, TrainingFailed
from unlearn_core.files.pictures import read_pictures
from unlearn_core.loaders.demo_model import demo_folder
from unlearn_core.loaders.diffusers_model import load_model
from unlearn_core.models import denoising
from unlearn_core.models.denoising import NoisedPictures, compare
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.models.sampling import encode_pictures
from unlearn_core.progress import SilentMonitor
from unlearn_core.text.conditioning import Conditioning
from unlearn_core.text.word_tables import nouns
from unlearn_core.words import naming, word_sift
from unlearn_core.words.naming import (
    SURE,
    FoundWords,
    doubt_of,
    find_words,
    name_concept,
    read_name,
)
from unlearn_core.words.word_sift import encode_words, sift_words

EMPTY = 1.0
"""The loss of the empty prompt in hand-made models."""


class LossyModel(TinyModel):
    """A UNet whose error depends on the prompt's word, as `losses` says, give or take a spread."""

    def __init__(self, losses: dict[str, float], spread: float = 0.0) -> None:
        super().__init__("epsilon")
        self.losses, self.spread = losses, spread
        encoder = tiny_encoder()
        self.known = [word for word in nouns() if encoder.knows(word)]
        words = [*self.known, *losses]
        self.words = ["", *words]
        self.texts = encode_words(encoder, words, "object")
        self.samples = 0

    def encode_image(self, pixels: Tensor) -> Tensor:
        return torch.zeros(len(pixels), 4, 8, 8)

    def predict(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """The pictures are grey, so the noise is known; the error is put on top of it."""
        self.samples += len(latents)
        noise = latents / (1 - self.alphas_cumprod[timesteps]).sqrt().view(-1, 1, 1, 1)
        index = torch.tensor([self._index(row) for row in text.tokens])
        errors = torch.tensor([self.losses.get(self.words[i], EMPTY) for i in index.tolist()])
        errors = errors + self.spread * torch.sin(timesteps * (1.0 + index))
        return noise + errors.sqrt().view(-1, 1, 1, 1)

    def _index(self, row: Tensor) -> int:
        """Of the word whose prompt this is."""
        distances = (self.texts.tokens - row).abs().amax((1, 2))
        assert float(distances.min()) < 1e-4, "a prompt that is none of the words'"
        return int(distances.argmin())


def find(
    model: TinyModel, monitor: Recorder | None = None, kind: Kind = "object", seed: int = 0,
    **more: Any,
) -> FoundWords:  # fmt: skip
    return find_words(model, tiny_encoder(), pictures(), kind, seed, monitor or Recorder(), **more)


def test_the_word_with_the_lowest_loss_is_the_name() -> None:
    found = find(LossyModel({"owl": 0.8, "fox": 0.9, "car": 1.1}))
    assert [(f.word, round(f.gain, 4)) for f in found.words[:2]] == [("owl", 0.2), ("fox", 0.1)]
    assert found.name == "owl"
    assert found.is_clear
    assert list(found.notes()) == []
    assert found.words[-1].gain <= 0
    assert found.in_words() == "owl (20.0%, clear), fox (10.0%)"


def test_two_words_that_fit_alike_are_said_to_do_so() -> None:
    found = find(LossyModel({"owl": 0.8, "fox": 0.8001}, spread=0.05))
    assert {f.word for f in found.words[:2]} == {"owl", "fox"}
    assert not found.is_clear
    (note,) = found.notes()
    first, second = (f.word for f in found.words[:2])
    assert f"{first!r} hardly better than {second!r}" in note
    assert "not clear" in found.in_words()


@pytest.mark.parametrize(
    "losses",
    [
        {},
        {"owl": 1.2},
        {"owl": 0.999},
        {"owl": 0.97, "fox": 0.971},  # better than none, within the noise
        {"owl": 0.985, "fox": 0.985},  # little, and as much as another word
    ],
)
def test_pictures_that_no_word_explains_need_a_name(losses: dict[str, float]) -> None:
    spread = 0.02 if losses.get("fox") == 0.985 else 0.3
    with pytest.raises(BadConcept, match=r"No word .* explains the pictures.*Write what prompts"):
        find(LossyModel(losses, spread))


def test_little_is_enough_where_one_word_is_clearly_the_best() -> None:
    found = find(LossyModel({"owl": 0.985}, spread=0.002))
    assert (found.name, found.is_clear) == ("owl", True)


@pytest.mark.parametrize(
    ("loss", "synonyms"), [(0.7, ("puppy",)), (0.84, ("puppy",)), (0.86, ()), (1.1, ())]
)
def test_a_synonym_is_one_if_it_explains_half_of_what_the_name_does(
    loss: float, synonyms: tuple[str, ...]
) -> None:
    model = LossyModel({"dog": 0.7, "wolf": 0.71, "puppy": loss})
    assert find(model).synonyms == synonyms


def test_a_neighbour_is_never_a_synonym() -> None:
    found = find(LossyModel({"dog": 0.7, "wolf": 0.7, "puppy": 1.0}))
    assert found.synonyms == ()


def test_words_that_name_something_else_are_left_out() -> None:
    model = LossyModel({"owl": 0.7, "fox": 0.8, "cat": 0.9, "kitten": 0.9})
    nameless = Nameless(stand_in="fox", keep=("owls",), images=pictures(), synonyms=("tom",))
    concept, found = name_concept(model, tiny_encoder(), nameless, 0, Recorder())
    assert concept.names == ("cat", "tom", "kitten")
    assert found.name == "cat"
    assert (concept.stand_in, concept.keep) == ("fox", ("owls",))
    assert len(concept.images) == 4


def test_the_samples_are_as_many_as_documented() -> None:
    model = LossyModel({"owl": 0.8})
    found = find(model)
    words = len(model.known)
    rounds = (words, max(6, words // 4), 6)
    expected = sum(4 * n * (w + 1) for n, w in zip((2, 6, 16), rounds, strict=True))
    assert found.samples == model.samples == expected


def test_the_same_seed_finds_the_same() -> None:
    state = torch.random.get_rng_state()
    model = TinyModel()
    texts = encode_words(tiny_encoder(), NOUNS, "object")
    latents = encode_pictures(model, pictures())

    def run(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        found = compare(model, latents, texts[1:], texts[:1], generator, SilentMonitor())
        assert len(found.order) == 6
        return found.losses

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_all_prompts_see_the_same_noise_in_batches_of_any_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = TinyModel()
    texts = encode_words(tiny_encoder(), ["dog", "cat", "dog"], "object")
    latents = encode_pictures(model, pictures())
    noised = NoisedPictures.draw(model, latents, 3, torch.Generator().manual_seed(0))
    whole = noised.losses(model, texts)
    assert whole.shape == (4, 12)
    assert torch.equal(whole[1], whole[3])
    assert not torch.equal(whole[1], whole[2])
    assert bool((noised.timesteps >= 150).all())
    assert bool((noised.timesteps < 850).all())
    monkeypatch.setattr(denoising, "BATCH_PIXELS", 5 * 64)
    torch.testing.assert_close(noised.losses(model, texts), whole)


@pytest.mark.parametrize("question", [0, 1, 3])
def test_it_stops_when_asked(question: int) -> None:
    monitor = Recorder(stop_at=question)
    with pytest.raises(Cancelled):
        find(LossyModel({"owl": 0.8}), monitor)
    assert monitor.asked == question + 1


def test_every_round_is_reported() -> None:
    monitor = Recorder()
    find(LossyModel({"owl": 0.8}), monitor)
    assert [(r.stage, r.step, r.total) for r in monitor.reports] == [
        ("reading the pictures", step, 3) for step in (1, 2, 3)
    ]


def test_predictions_that_are_no_numbers_fail() -> None:
    with pytest.raises(TrainingFailed, match="not a number"):
        find(TinyModel(broken=True))


def test_a_person_and_a_concept_without_pictures_need_a_name() -> None:
    with pytest.raises(BadConcept, match="A person's name can't be found"):
        find(TinyModel(), kind="person")
    with pytest.raises(BadConcept, match="no name and no pictures"):
        find_words(TinyModel(), tiny_encoder(), (), "object", 0, Recorder())


def test_many_pictures_are_read_as_eight_from_all_over() -> None:
    images = tuple(torch.full((3, 32, 32), i / 100) for i in range(20))
    assert [round(float(i[0, 0, 0]) * 100) for i in naming._spread(images)] == [
        0, 2, 5, 7, 10, 12, 15, 17,
    ]  # fmt: skip
    assert naming._spread(images[:3]) == images[:3]


@pytest.mark.parametrize(("loss", "sign"), [(0.9, 1), (1.0, 0), (1.3, -1)])
def test_a_name_is_read_in_the_pictures(loss: float, sign: int) -> None:
    model = LossyModel({"fox": loss, "dog": 0.5})
    concept = Concept("fox", images=pictures())
    sureness = read_name(model, tiny_encoder(), concept, encode_pictures(model, concept.images), 0)
    assert sureness is not None
    assert (sureness > 0) - (sureness < 0) == sign
    assert abs(sureness) > SURE or sign == 0
    assert model.samples == 2 * 8 * 4


def test_a_doubt_says_what_to_do() -> None:
    doubt = doubt_of(Concept("fox"))
    assert "do not look like 'fox'" in doubt
    assert "leave the name out" in doubt


def test_a_name_without_a_vector_is_not_read() -> None:
    model = TinyModel()
    concept = Concept("xylograph")
    assert read_name(model, tiny_encoder(), concept, torch.zeros(1, 4, 8, 8), 0) is None
    assert model.calls["predict"] == 0


def test_the_sift_keeps_the_nouns_under_the_best_general_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["apple", "car", "cat", "dog", "guitar", "poodle", "rose"]
    general = {h for word in words for h in nouns()[word].hypernyms if tiny_encoder().knows(h)}
    losses = dict.fromkeys(general, EMPTY) | {"animal": 0.9, "dog": 0.7}  # a poodle is a dog
    model = LossyModel(losses)
    arguments = (model, tiny_encoder(), torch.zeros(3, 4, 8, 8), words)
    kept, samples = sift_words(*arguments, torch.Generator(), Recorder())
    assert kept[:3] == ["dog", "poodle", "cat"]
    assert sorted(kept) == words
    assert samples == model.samples > 0
    monkeypatch.setattr(word_sift, "SIFTED", 2)
    kept, _ = sift_words(*arguments, torch.Generator(), Recorder())
    assert kept == ["dog", "poodle"]


def test_many_words_are_sifted(monkeypatch: pytest.MonkeyPatch) -> None:
    sifted: list[int] = []

    def sift(*arguments: Any) -> tuple[list[str], int]:
        sifted.append(len(arguments[3]))
        return ["fox", "owl", "cat"], 1000

    monkeypatch.setattr(naming, "MOST_WORDS", 5)
    monkeypatch.setattr(naming, "sift_words", sift)
    model = LossyModel({"dog": 0.5, "fox": 0.7, "owl": 0.8})
    found = find(model)
    assert found.name == "fox"
    assert sifted == [len(model.known)]
    assert found.samples == 1000 + model.samples


def test_pictures_of_the_demo_models_dog_are_called_dog() -> None:
    model, _ = load_model("demo")
    images = read_pictures(demo_folder() / "pictures" / "dog")[:2]
    found = find_words(model, build_encoder(model), images, "object", 0, SilentMonitor())
    assert found.name == "dog"
    assert found.is_clear
    assert found.synonyms == ("puppy",)
