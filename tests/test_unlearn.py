"""The public call from end to end, with the tests as a host."""

import json
import logging
from typing import Any

import pytest
import torch
from tiny_model import (
    LAST_USED,
    UNKNOWN,
    Recorder,
    TinyModel,
    make_settings,
    pictures,
    small_settings,
    tiny_encoder,
    tiny_tower,
)
from torch import Tensor, nn

from unlearn_core.concept import Concept, Nameless
from unlearn_core.errors import BadConcept, BadSettings, Cancelled, TrainingFailed, WrongModel
from unlearn_core.forgetting import building
from unlearn_core.forgetting import run as engine
from unlearn_core.forgetting.unlearn import UnlearnResult, learn_vectors, unlearn
from unlearn_core.lora.file import lora_bytes
from unlearn_core.lora.keys import ATTENTION, text_module
from unlearn_core.lora.weights import complete, round_to_half
from unlearn_core.models.families import Prediction
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.models.unet_sizes import UnetSizes
from unlearn_core.reporting.lines import run_lines
from unlearn_core.settings import PRESETS, UnlearnSettings, preset
from unlearn_core.text.frozen_layers import FrozenLinear
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import token_ids
from unlearn_core.training.losses import drift
from unlearn_core.training.preview import PREVIEW_STEPS
from unlearn_core.words.naming import SURE, FoundWord, FoundWords, doubt_of
from unlearn_core.words.neighbours import KEPT_FIRST
from unlearn_core.words.prompt_writer import PromptWriter
from unlearn_core.words.prompts import Prompts, whole_prompts
from unlearn_core.words.stand_in import pictures_to_draw

DOG = Concept("dog", ("puppy",), keep=("cat",))
WITH_PICTURES = DOG.replace(images=pictures())
SD2_UNET = UnetSizes((320, 640, 1280, 1280), (1, 1, 1, 0), 2, 1024)


def small(name: str = "balanced", **changes: object) -> UnlearnSettings:
    return preset(name, **small_settings(**changes))


@pytest.fixture
def vague_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model finds the name in its pictures, but not so surely that vectors are left out."""
    monkeypatch.setattr(engine, "read_name", lambda *_: SURE / 2)


def same_lora(a: UnlearnResult, b: UnlearnResult) -> bool:
    return lora_bytes(a.lora) == lora_bytes(b.lora)


@pytest.mark.usefixtures("vague_name")
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_every_preset_runs_and_leaves_the_lent_model_alone(
    name: str, prediction: Prediction
) -> None:
    model, monitor = TinyModel(prediction), Recorder()
    checksum, state = model.checksum(), torch.random.get_rng_state()
    settings = small(name)
    result = unlearn(model, WITH_PICTURES, settings, monitor)
    assert model.checksum() == checksum
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(result.losses) == 6
    assert result.settings == settings
    pairs = result.lora.pairs
    assert complete(result.lora).pairs.keys() == pairs.keys()
    layers = {key.layer for key in pairs}
    assert max(layers) == LAST_USED
    for layer in layers:
        assert {key.module for key in pairs if key.layer == layer} >= set(ATTENTION)
    for pair in pairs.values():
        assert pair.alpha == pair.rank == 4
        for part in (pair.down, pair.up):
            assert part.dtype == torch.float32
            assert torch.equal(part, part.half().float())
    assert any(bool(pair.up.any()) for pair in pairs.values())
    pictures = ["reading the pictures"] if name != "quick" else []
    learning = ["learning the concept"] if settings.use_pictures else []
    solving = ["least squares"] if settings.closed_form else []
    assert monitor.stages == [
        "copying the text encoder", "choosing words", "choosing the stand-in", *pictures, *learning,
        "preparing the prompts", *solving, "forgetting",
    ]  # fmt: skip
    assert (result.learned is not None) == settings.use_pictures
    assert lora_bytes(result.lora)


def test_the_lora_forgets_and_keeps() -> None:
    tower = tiny_tower()
    prompts = torch.cat([token_ids(t) for t in ("a photo of a dog", "a photo of a house", "")])
    before = tower.encode(prompts)
    settings = small(steps=50, batch_size=8, forget_prompts=64, keep_prompts=64, rank=8)
    result = unlearn(TinyModel(), Concept("dog"), settings)
    with torch.no_grad():
        for key, pair in result.lora.pairs.items():
            place = "self_attn" if key.module in ATTENTION else "mlp"
            linear = tower.layers[key.layer].get_submodule(f"{place}.{key.module}")
            assert isinstance(linear, nn.Linear)
            linear.weight += pair.delta()
    forgotten, kept, empty = drift(tower.encode(prompts), before).tolist()
    assert forgotten > 2 * kept
    assert forgotten > 2 * empty


def test_the_paper_needs_pictures() -> None:
    model = TinyModel()
    with pytest.raises(BadConcept, match="need pictures of the concept; give 4 or 5"):
        unlearn(model, DOG, small("paper"))
    assert model.calls == {}


def test_layers_that_the_model_has_not_are_refused_before_any_work() -> None:
    monitor = Recorder()
    with pytest.raises(BadSettings, match="layers 0 to 2 can be chosen"):
        unlearn(TinyModel(), DOG, small(layers="20-22"), monitor)
    assert monitor.asked == 0


def test_settings_that_train_nothing_are_refused_in_words() -> None:
    weightless = small(forget_weight=0.0, keep_weight=0.0, guard_weight=0.0)
    with pytest.raises((BadSettings, TrainingFailed)):
        unlearn(TinyModel(), DOG, weightless)


@pytest.mark.usefixtures("vague_name")
def test_vectors_learned_before_are_not_learned_again() -> None:
    model, settings = TinyModel(), small()
    learned = learn_vectors(model, WITH_PICTURES, settings, Recorder())
    given = Recorder()
    result = unlearn(model, WITH_PICTURES, settings, given, learned)
    assert result.learned is learned
    assert "learning the concept" not in given.stages
    assert same_lora(result, unlearn(model, WITH_PICTURES, settings))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[TextEncoder]:
    """The private encoders that runs have built."""
    encoders: list[TextEncoder] = []

    def build(model: TinyModel, weights: dict[str, Tensor]) -> TextEncoder:
        encoders.append(build_encoder(model, weights))
        return encoders[-1]

    monkeypatch.setattr(engine, "build_encoder", build)
    return encoders


def check_unchanged(encoder: TextEncoder) -> None:
    assert encoder.fingerprint() == tiny_encoder().fingerprint()
    (tower,) = encoder.towers
    linears = [m for m in tower.layers.modules() if isinstance(m, nn.Linear)]
    assert {type(m) for m in linears} == {FrozenLinear}
    prompts = token_ids("a photo of a dog")
    assert torch.equal(tower.encode(prompts), tiny_tower().encode(prompts))


def test_a_run_needs_pictures_only_where_it_says_so(built: list[TextEncoder]) -> None:
    model = TinyModel()
    result = unlearn(model, DOG, small())
    assert result.learned is None
    assert model.calls["encode_image"] == 0
    check_unchanged(built[0])


@pytest.mark.parametrize(
    ("sizes", "native_size", "drawn"),
    [(UnetSizes((8,), (1,), 1, 64), 64, 8), (SD2_UNET, 768, 0), (None, 64, 0)],
)
def test_the_quick_preset_draws_its_stand_in_only_where_that_takes_seconds(
    sizes: UnetSizes | None, native_size: int, drawn: int
) -> None:
    model = TinyModel()
    model.unet_sizes, model.native_size = sizes, native_size
    settings = preset("quick", forget_prompts=12, keep_prompts=16)
    result = unlearn(model, WITH_PICTURES, settings)
    assert result.stand_in.drawn == drawn
    assert model.calls["encode_image"] == 0
    assert (model.calls["predict"] > 0) is (drawn > 0)
    assert (sum("was not tested" in note for note in result.notes) == 1) is (drawn == 0)


def test_the_quick_preset_calls_a_large_unet_only_for_previews() -> None:
    model, monitor = TinyModel(), Recorder()
    settings = preset("quick", forget_prompts=12, keep_prompts=16)
    unlearn(model, WITH_PICTURES, settings, monitor)
    assert model.calls["predict"] == 2 * PREVIEW_STEPS  # before and after


def test_a_gpu_draws_the_stand_in_of_quick_at_any_size() -> None:
    model = TinyModel()
    model.unet_sizes, model.native_size = SD2_UNET, 768
    assert pictures_to_draw(preset("quick"), model) == 0
    assert pictures_to_draw(preset("balanced"), model) == 16
    model.device = torch.device("cuda")
    assert pictures_to_draw(preset("quick"), model) == 8


# The same seed, the same file


@pytest.mark.parametrize("name", PRESETS)
def test_the_same_seed_gives_the_same_file(name: str) -> None:
    first, again = (unlearn(TinyModel(), WITH_PICTURES, small(name)) for _ in range(2))
    assert same_lora(first, again)
    assert first.losses == again.losses
    assert first.lora.metadata == again.lora.metadata
    assert not same_lora(first, unlearn(TinyModel(), WITH_PICTURES, small(name, seed=1)))


def test_the_metadata_says_what_was_done_and_has_no_time() -> None:
    result = unlearn(TinyModel(), WITH_PICTURES, small())
    metadata = result.lora.metadata
    assert metadata.keys() == {
        "unlearn_concept",
        "unlearn_synonyms",
        "unlearn_names",
        "unlearn_kind",
        "unlearn_stand_in",
        "unlearn_kept",
        "unlearn_pictures",
        "unlearn_settings",
        "unlearn_base_model_hash",
        "unlearn_torch",
    }
    assert metadata["unlearn_concept"] == "dog"
    assert json.loads(metadata["unlearn_names"]) == list(result.names)
    assert metadata["unlearn_stand_in"] == result.stand_in.word
    assert json.loads(metadata["unlearn_kept"]) == list(result.kept)
    assert metadata["unlearn_pictures"] == "4"
    assert UnlearnSettings.from_dict(json.loads(metadata["unlearn_settings"])) == small()
    assert metadata["unlearn_base_model_hash"] == build_encoder(TinyModel()).fingerprint()


@pytest.mark.parametrize(
    ("name", "concept", "used"),
    [
        ("quick", WITH_PICTURES, "0"),
        ("quick", DOG, "0"),
        ("quick", Nameless(images=pictures()), "4"),  # its name was found in them
        ("balanced", WITH_PICTURES, "4"),
        ("balanced", DOG, "0"),
        ("paper", WITH_PICTURES, "4"),
    ],
)
def test_the_metadata_counts_the_pictures_that_were_used(
    name: str, concept: Concept | Nameless, used: str
) -> None:
    metadata = unlearn(TinyModel(), concept, small(name)).lora.metadata
    assert metadata["unlearn_pictures"] == used


def test_the_fingerprint_is_that_of_the_weights() -> None:
    encoder = tiny_encoder()
    before = encoder.fingerprint()
    assert tiny_encoder().fingerprint() == before
    with torch.no_grad():
        layer = encoder.towers[0].layers[1]
        layer.get_submodule("mlp.fc2").weight[0, 0] += 1e-3  # type: ignore[operator]
    assert encoder.fingerprint() != before


# Names and kept words


def test_names_are_the_users_then_other_spellings() -> None:
    result = unlearn(TinyModel(), DOG, small(steps=1))
    assert result.names[:2] == ("dog", "puppy")
    assert "dogs" in result.names
    assert all(tiny_encoder().knows(name) for name in result.names)
    plain = unlearn(TinyModel(), WITH_PICTURES, small("paper", steps=1))
    assert plain.names == ("dog", "puppy")


def test_a_slip_of_the_pen_that_is_another_word_is_not_forgotten() -> None:
    result = unlearn(TinyModel(), Concept("cart"), small(steps=1))
    assert "cat" not in result.names


def test_a_word_that_the_user_keeps_is_not_forgotten_as_a_plural() -> None:
    concept = Concept("dog", keep=("dogs",))
    result = unlearn(TinyModel(), concept, small(steps=1))
    assert not set(result.names) & set(result.kept)


def test_kept_words_are_the_users_then_the_nearest() -> None:
    result = unlearn(TinyModel(), DOG, small(steps=1))
    assert result.kept[0] == "cat"
    assert KEPT_FIRST <= len(result.kept) <= KEPT_FIRST + 1
    assert len(set(result.kept)) == len(result.kept)


@pytest.mark.parametrize("name", ["table", "garden", "city", "orange"])
def test_no_prompt_to_keep_or_guard_holds_the_concept(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    keep = PromptWriter.keep

    def watch(self: PromptWriter, *arguments: Any) -> Any:
        prompts = keep(self, *arguments)
        texts.extend(prompts.texts)
        return prompts

    monkeypatch.setattr(PromptWriter, "keep", watch)
    settings = small(steps=1, keep_prompts=200)
    unlearn(TinyModel(), Concept(name, stand_in="chair"), settings)
    assert len(texts) == 200
    assert [text for text in texts if name in text.replace(",", " ").split()] == []


@pytest.mark.parametrize(
    ("name", "expected"), [("dog", 6), ("watermark", 5), ("jpeg artifacts", 5), ("text", 5)]
)
def test_no_guard_prompt_protects_the_concept(
    name: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    guards: list[list[str]] = []

    def watch(texts: list[str]) -> Prompts:
        guards.append(texts)
        return whole_prompts(texts)

    monkeypatch.setattr(building, "whole_prompts", watch)
    unlearn(TinyModel(), Concept(name, stand_in="chair"), small(steps=1))
    assert guards[0][0] == ""
    assert len(guards[0]) == expected
    assert not any(name in text for text in guards[0])


# Notes


def notes(concept: Concept, **changes: object) -> str:
    settings = small(**{"steps": 1, **changes})  # type: ignore[arg-type]
    return "\n".join(unlearn(TinyModel(), concept, settings).notes)


def test_the_user_is_told_why_no_vectors_were_learned() -> None:
    assert "Learned vectors not used: no pictures." in notes(DOG)
    settings = "Learned vectors not used: these settings leave them out."
    assert settings in notes(WITH_PICTURES, use_pictures=False)
    assert settings in notes(WITH_PICTURES, inversion_steps=0)
    assert "not used: no pictures" not in notes(WITH_PICTURES)


def test_the_user_is_told_what_was_not_tested() -> None:
    untested = "draws the concept was not tested"
    assert untested in notes(DOG, stand_in_pictures=0)
    assert untested not in notes(DOG)


def test_the_user_is_told_if_the_model_does_not_know_the_concept() -> None:
    said = f"The model has no word vector for '{UNKNOWN}'"
    assert said in notes(Concept(UNKNOWN, stand_in="cat"))
    assert "no word vector" not in notes(DOG)


def test_the_user_is_told_if_the_closed_form_has_nothing_to_change() -> None:
    said = "The closed form changes fc2, which these settings leave alone."
    assert said in notes(DOG, closed_form=True, modules="attention")
    assert said not in notes(DOG, closed_form=True)


@pytest.mark.parametrize(
    ("concept", "measured"),
    [
        (Concept("dog"), True),
        (Concept("mosaic", kind="style"), True),
        (Concept("taylor", kind="person"), False),
        (Concept("nudity", kind="unsafe"), False),
    ],
)
@pytest.mark.parametrize("name", PRESETS)
def test_every_kind_runs_and_says_whether_little_was_measured(
    name: str, concept: Concept, measured: bool
) -> None:
    concept = concept.replace(images=pictures())
    result = unlearn(TinyModel(), concept, small(name, steps=3))
    note = f"Results for the kind '{concept.kind}' were measured on"
    assert any(said.startswith(note) for said in result.notes) is not measured
    assert lora_bytes(result.lora)


# Without a name


def test_a_concept_without_a_name_is_forgotten_under_the_word_that_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = FoundWords((FoundWord("fox", 0.2), FoundWord("owl", 0.19)), ("vixen",), False, 99)

    def name_concept(*arguments: Any) -> tuple[Concept, FoundWords]:
        return arguments[2].named(found.name), found

    monkeypatch.setattr(engine, "name_concept", name_concept)
    monkeypatch.setattr(engine, "read_name", lambda *_: SURE)
    nameless = Nameless(images=pictures(), keep=("cat",))
    result = unlearn(TinyModel(), nameless, small(steps=1))
    named = unlearn(TinyModel(), nameless.named("fox"), small(steps=1))
    assert same_lora(result, named)
    assert result.found == found
    assert named.found is None
    assert "hardly better than 'owl'" in result.notes[0]
    assert "finding the word" in result.seconds
    assert "finding the word" not in named.seconds
    assert run_lines(result)[0] == (
        "the model's words for these pictures: fox (20.0%, not clear), owl (19.0%)"
    )
    assert not any(line.startswith("the model's words") for line in run_lines(named))


def test_without_a_name_and_without_pictures_nothing_can_be_forgotten() -> None:
    with pytest.raises(BadConcept, match="no name and no pictures"):
        unlearn(TinyModel(), Nameless(), small())


@pytest.mark.parametrize(
    ("sureness", "doubted"), [(-0.1, True), (0.0, True), (0.1, False), (SURE, False), (None, False)]
)
def test_a_doubt_about_the_name_is_said(
    sureness: float | None, doubted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "read_name", lambda *_: sureness)
    doubt = doubt_of(DOG)
    assert (doubt in notes(WITH_PICTURES)) is doubted
    assert doubt not in notes(WITH_PICTURES, use_pictures=False)
    assert doubt not in notes(DOG)


@pytest.mark.parametrize(
    ("sureness", "changes", "learns"),
    [
        (SURE, {}, False),
        (SURE - 0.1, {}, True),
        (-SURE, {}, True),
        (None, {}, True),
        (SURE, {"adversary": "pgd"}, True),
    ],
)
def test_vectors_are_learned_where_the_name_does_not_explain_the_pictures(
    sureness: float | None,
    changes: dict[str, object],
    learns: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "read_name", lambda *_: sureness)
    settings = small(**{"steps": 1, **changes})  # type: ignore[arg-type]
    result = unlearn(TinyModel(), WITH_PICTURES, settings)
    wanted = unlearn(TinyModel(), WITH_PICTURES, settings, wants_vectors=True)
    assert wanted.learned is not None
    assert (result.learned is not None) is learns
    said = "No vectors were learned: the model finds the name itself in the pictures."
    assert (said in result.notes) is not learns
    assert not any(line.startswith("Learned vectors not used: no") for line in result.notes)


# Stopping and failing


def asked_in_a_whole_run() -> int:
    monitor = Recorder()
    unlearn(TinyModel(), WITH_PICTURES, small("robust"), monitor)
    return monitor.asked


def test_it_can_be_stopped_at_any_question() -> None:
    model = TinyModel()
    checksum, state = model.checksum(), torch.random.get_rng_state()
    count = asked_in_a_whole_run()
    assert count >= 1 + 1 + 4 + 6
    for question in (*range(0, count, 4), count - 1):
        with pytest.raises(Cancelled):
            unlearn(model, WITH_PICTURES, small("robust"), Recorder(stop_at=question))
        assert model.checksum() == checksum
        assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.usefixtures("vague_name")
@pytest.mark.parametrize("stage", ["learning the concept", "forgetting"])
def test_a_stopped_run_takes_its_lora_off_again(stage: str, built: list[TextEncoder]) -> None:
    with pytest.raises(Cancelled):
        unlearn(TinyModel(), WITH_PICTURES, small(), Recorder(stop_in=stage))
    check_unchanged(built[0])


def test_a_broken_unet_fails_in_words_and_changes_nothing(built: list[TextEncoder]) -> None:
    model = TinyModel(broken=True)
    checksum = model.checksum()
    with pytest.raises(TrainingFailed, match="predicts for the pictures is not a number"):
        unlearn(model, WITH_PICTURES, small(stand_in_pictures=0))
    with pytest.raises(TrainingFailed, match="loss is nan at step 1"):
        unlearn(model, WITH_PICTURES, small("paper", use_pictures=False, stand_in_pictures=0))
    with pytest.raises(WrongModel, match="UNet gives numbers that are not finite"):
        unlearn(model, DOG, small("balanced", use_pictures=False))
    check_unchanged(built[1])
    assert model.checksum() == checksum


def test_nothing_is_printed_and_no_warning_is_raised(
    capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with caplog.at_level(logging.WARNING):
        unlearn(TinyModel(), WITH_PICTURES, small())
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == ""
    assert [str(warning.message) for warning in recwarn] == []
    assert caplog.records == []


def test_previews_show_concept_and_two_neighbours_before_and_now() -> None:
    monitor = Recorder()
    result = unlearn(TinyModel(), DOG, small(steps=4, closed_form=False), monitor)
    assert len(result.kept) >= 2
    shown = [r.preview for r in monitor.reports if r.preview is not None]
    assert len(shown) == 4
    assert all(preview[:, :64].equal(shown[0][:, :64]) for preview in shown)
    assert not shown[0][:, 64:].equal(shown[-1][:, 64:])
    for preview in shown:
        assert preview.shape == (3, 128, 192)
        assert preview.device.type == "cpu"
        assert 0 <= float(preview.min()) <= float(preview.max()) <= 1


def test_a_stage_is_told_before_its_picture_is_drawn() -> None:
    monitor = Recorder()
    unlearn(TinyModel(), DOG, preset("quick", forget_prompts=12, keep_prompts=16), monitor)
    (shown,) = (i for i, report in enumerate(monitor.reports) if report.preview is not None)
    assert monitor.reports[shown - 1].stage == monitor.reports[shown].stage


@pytest.mark.usefixtures("vague_name")
def test_the_time_of_every_stage_is_told() -> None:
    result = unlearn(TinyModel(), WITH_PICTURES, make_settings())
    assert list(result.seconds) == [
        "copying the text encoder", "choosing words", "choosing the stand-in",
        "reading the pictures", "learning the concept", "preparing the prompts", "forgetting",
    ]  # fmt: skip
    assert all(seconds >= 0 for seconds in result.seconds.values())
    assert text_module(LAST_USED, "fc2") in result.lora.pairs
    assert round_to_half(result.lora).pairs.keys() == result.lora.pairs.keys()
