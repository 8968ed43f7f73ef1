"""Several concepts in one run."""

import json
import weakref
from typing import Any

import pytest
import torch
from tiny_model import Recorder, TinyModel, pictures, small_settings

from unlearn_core.concept import Concept
from unlearn_core.errors import BadConcept, Cancelled
from unlearn_core.forgetting import run, tower_training
from unlearn_core.forgetting.unlearn import unlearn, unlearn_together
from unlearn_core.lora import null_space
from unlearn_core.lora.file import lora_bytes
from unlearn_core.lora.metadata import all_from_metadata
from unlearn_core.lora.weights import apply_lora
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.settings import UnlearnSettings, preset
from unlearn_core.text.tokenizer import token_ids
from unlearn_core.training.examples import ForgetExamples, forget_examples
from unlearn_core.training.losses import drift

DOG, CAT, BUS = Concept("dog", ("puppy",)), Concept("cat"), Concept("bus")


def small(name: str = "quick", **changes: object) -> UnlearnSettings:
    return preset(name, **small_settings(**changes))


@pytest.mark.parametrize(("guarded", "times"), [(0.25, 2.0), (null_space.GUARDED, 1.5)])
def test_one_lora_moves_every_concept_and_little_else(
    monkeypatch: pytest.MonkeyPatch, guarded: float, times: float
) -> None:
    # The guard's prompts fill half of this encoder's 64 inputs, so that it costs more than on wide
    # ones: held to a quarter, the rest moves less.
    monkeypatch.setattr(null_space, "GUARDED", guarded)
    model = TinyModel()
    result = unlearn_together(model, (DOG, BUS), preset("quick", steps=0, layers="last:1"))
    weights = model.text_encoder_weights()
    kept = [word for part in result.parts for word in part.kept]
    ids = torch.cat([token_ids(f"a photo of a {word}") for word in ("dog", "bus", *kept)])
    before, after = (
        build_encoder(model, side).condition(ids).tokens
        for side in (weights, apply_lora(weights, result.lora))
    )
    moved = drift(after, before)
    gone, rest = moved[:2].min(), moved[2:]
    assert gone > 2 * rest.median()
    assert gone > times * rest.mean()


def test_no_concept_stands_in_for_another_or_is_kept() -> None:
    result = unlearn_together(TinyModel(), (DOG, CAT, BUS), small())
    gone = {"dog", "puppy", "cat", "kitten", "bus"}
    assert [part.concept.name for part in result.parts] == ["dog", "cat", "bus"]
    for part in result.parts:
        assert part.stand_in.word not in gone
        assert not gone & set(part.kept)


def test_the_rank_grows_with_the_concepts_and_the_encoder_is_copied_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    lend = TinyModel.text_encoder_weights

    def counted(model: TinyModel) -> dict[str, torch.Tensor]:
        asked.append(model)
        return lend(model)

    monkeypatch.setattr(TinyModel, "text_encoder_weights", counted)
    result = unlearn_together(TinyModel(), (DOG, CAT, BUS), small(rank=2))
    assert len(asked) == 1
    assert result.settings.rank == 6
    assert {pair.rank for pair in result.lora.pairs.values()} == {6}


def test_a_run_on_one_concept_is_the_same_either_way() -> None:
    alone, together = (
        unlearn(TinyModel(), DOG, small()),
        unlearn_together(TinyModel(), (DOG,), small()),
    )
    assert lora_bytes(alone.lora) == lora_bytes(together.lora)


def test_each_concept_has_its_own_learned_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "read_name", lambda *_: None)
    concepts = tuple(concept.replace(images=pictures()) for concept in (DOG, BUS))
    result = unlearn_together(TinyModel(), concepts, small("balanced", inversion_steps=3))
    first, second = (part.learned for part in result.parts)
    assert first is not None
    assert second is not None
    assert not torch.equal(first.vectors, second.vectors)


@pytest.mark.parametrize(("steps", "held"), [(0, [0, 0, 0]), (1, [0, 1, 2])])
def test_without_steps_one_concepts_prompts_to_forget_are_held_at_a_time(
    monkeypatch: pytest.MonkeyPatch, steps: int, held: list[int]
) -> None:
    made: list[list[weakref.ref[ForgetExamples]]] = []
    found: list[int] = []

    def watched(*args: Any) -> list[ForgetExamples]:
        found.append(sum(any(ref() for ref in sets) for sets in made))
        sets = forget_examples(*args)
        made.append([weakref.ref(examples) for examples in sets])
        return sets

    monkeypatch.setattr(tower_training, "forget_examples", watched)
    unlearn_together(TinyModel(), (DOG, CAT, BUS), small(steps=steps))
    assert found == held


def test_the_file_names_every_concept() -> None:
    metadata = unlearn_together(TinyModel(), (DOG, BUS), small()).lora.metadata
    dog, bus = all_from_metadata(metadata)
    assert (dog.concept.name, bus.concept.name) == ("dog", "bus")
    assert "puppy" in dog.names
    assert json.loads(metadata["unlearn_settings"])["rank"] == 8


@pytest.mark.parametrize(
    ("concepts", "words"),
    [
        ((), "at least one"),
        ((DOG, Concept("puppy")), "'dog' and 'puppy' are the same thing"),
        (
            (BUS, Concept("fox", ("bus",))),
            r"'bus' and 'fox' \(also called 'bus'\) are the same thing",
        ),
        ((DOG, Concept("wolf", stand_in="dog")), "is forgotten in the same run"),
        ((Concept("wolf", keep=("dogs",)), DOG), "is forgotten in the same run"),
    ],
)
def test_concepts_that_need_each_other_are_refused(
    concepts: tuple[Concept, ...], words: str
) -> None:
    with pytest.raises(BadConcept, match=words):
        unlearn_together(TinyModel(), concepts, small())


def test_it_can_be_stopped() -> None:
    with pytest.raises(Cancelled):
        unlearn_together(TinyModel(), (DOG, BUS), small(), Recorder(stop_at=2))
