"""The ideas that only the bench tries: each works, and computes what its source says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_model import Recorder, TinyModel, make_settings, pictures, small_settings
from torch import Tensor

from bench import ablations
from bench.attacks.pictures import SHOWN
from bench.erased import Erased, Task
from bench.ideas import inverter, keeping, telling
from bench.ideas.inverter import InversionLoopRun, Inverter
from bench.ideas.keeping import FarKeepRun, MinedRun, SurgeryRun, plain_keep_prompts, surgery
from bench.ideas.objectives import (
    UNSUPERVISED,
    NameAndEndRun,
    NameOnlyRun,
    NegativePictureLoss,
    NegativeRun,
    RandomVectorRun,
    _drawn_like,
    negative_target,
)
from bench.ideas.stand_ins import EmptyStandInRun, FarStandInRun
from bench.ideas.telling import (
    BY_HAND,
    NONSENSE,
    as_it_is,
    to_a_stand_in,
    under_a_nonsense_name,
    with_pictures,
)
from bench.methods import Preset, changed_settings, find_method, settings_of
from bench.splits import TUNING
from bench.variants import IDEAS, Idea
from unlearn_core.concept import Concept, Nameless
from unlearn_core.errors import BadSettings
from unlearn_core.forgetting.run import UnlearnRun
from unlearn_core.lora.encoder_lora import EncoderLora, chosen_modules
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.models.noise import add_noise, draw_timesteps
from unlearn_core.text.tokenizer import token_ids
from unlearn_core.training.loop import Training
from unlearn_core.training.losses import role_distance
from unlearn_core.training.picture_loss import BATCH
from unlearn_core.words.prompts import OWN_STATE, ROLE_CONCEPT, ROLE_EOS, ROLE_PAD, ROLE_WORD, Name

PICTURES = pictures()


def small(name: str) -> Erased:
    few = small_settings(
        use_pictures=False, stand_in_pictures=0, steps=2, adversary_every=1, adversary_steps=2
    )
    method = find_method(f"variant:{name}" + "".join(f"+{k}={v}" for k, v in few.items()))
    model = TinyModel()
    return method(Erased(model, build_encoder(model), "base"), Task("dog", "object", PICTURES))


def prepared(run_of: type[UnlearnRun], **changes: Any) -> tuple[UnlearnRun, Training, EncoderLora]:
    """A run up to the point where it would train."""
    settings = make_settings(use_pictures=False, stand_in_pictures=0, **changes)
    images = PICTURES if settings.needs_unet else ()
    run = run_of(TinyModel(), [Concept("dog", images=images)], settings, Recorder())
    run._decide(run.concepts[0])
    run.encoder.split_at(min(key.layer for key in run.modules))
    lora = EncoderLora(run.encoder, run.modules, settings.rank, run.generator)
    return run, run._training(lora), lora


def disturb(lora: EncoderLora) -> None:
    with torch.no_grad():
        for number, key in enumerate(lora.modules):
            generator = torch.Generator().manual_seed(number)
            lora.up(key).copy_(0.1 * torch.randn(lora.up(key).shape, generator=generator))


@pytest.fixture(scope="module")
def loop() -> list[Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(IDEAS, "loop", Idea(UnlearnRun))
        return ups(small("loop"))


def against(gradient: Tensor) -> Tensor:
    """(n,): works against `gradient` (n,), in another direction than its opposite.

    Before anything is learned keeping has no gradient of its own, so that surgery would do nothing,
    and exact opposites would leave nothing.
    """
    return -gradient * torch.linspace(0.5, 1.5, len(gradient))


def ups(erased: Erased) -> list[Tensor]:
    assert erased.lora is not None
    return [pair.up for pair in erased.lora.pairs.values()]


@pytest.mark.parametrize("name", [name for name in IDEAS if IDEAS[name].told is as_it_is])
def test_every_variant_changes_the_lora_in_its_own_way_and_the_same_again(
    name: str, loop: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "MINED_EVERY", 1)
    monkeypatch.setattr(keeping, "surgery", lambda one, other: surgery(one, other + against(one)))
    monkeypatch.setattr(inverter, "SEARCHED", (1, 2))
    erased, again = small(name), small(name)
    found = ups(erased)
    assert max(float(up.abs().max()) for up in found) > 0
    assert all(torch.equal(one, other) for one, other in zip(found, ups(again), strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(found, loop, strict=True))
    assert bool(erased.notes["stand-in"]) != (name == "stand_in_empty")


def test_a_variant_has_the_settings_of_the_loop_and_of_its_name() -> None:
    found = settings_of("variant:esd_negative_mixed+steps=50+use_pictures=True")
    assert found["steps"] == 50
    assert found["layers"] == "last:3"
    assert (found["forget_weight"], found["image_weight"]) == (1.0, 1.0)
    assert (found["use_pictures"], found["stand_in_pictures"]) == (True, 0)
    assert changed_settings("variant:mined_keep+steps=50") == "mined_keep, steps=50"


@pytest.mark.parametrize("name", ["nothing", "", "mined_keep+steps=many", "mined_keep+step=3"])
def test_an_unknown_variant_or_setting_is_refused(name: str) -> None:
    with pytest.raises(BadSettings):
        find_method(f"variant:{name}")


# Gradient surgery


def test_conflicting_gradients_are_projected_onto_each_others_normal_planes() -> None:
    # g1.g2 = -1: g1 - (-1/2) g2 = (.5, .5) and g2 - (-1/1) g1 = (0, 1)
    joint = surgery(torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(joint, torch.tensor([0.5, 1.5]))


def test_gradients_that_agree_are_added() -> None:
    joint = surgery(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0]))
    assert torch.equal(joint, torch.tensor([1.0, 5.0]))


@pytest.mark.parametrize("image_weight", [0.0, 1.0])
def test_without_projection_surgery_takes_the_loops_gradient(
    monkeypatch: pytest.MonkeyPatch, image_weight: float
) -> None:
    monkeypatch.setattr(keeping, "surgery", torch.add)
    losses, gradients = [], []
    for run_of in (UnlearnRun, SurgeryRun):
        _, training, lora = prepared(run_of, image_weight=image_weight)
        disturb(lora)
        losses.append(training._learn(0))
        gradients.append([parameter.grad for parameter in lora.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


# Random vectors


def test_random_targets_are_one_vector_a_role_and_keep_the_beginning() -> None:
    (_, plain, _), (_, changed, _) = prepared(UnlearnRun), prepared(RandomVectorRun)
    vectors: dict[int, list[Tensor]] = {}
    for before, after in zip(plain.forget, changed.forget, strict=True):
        own = before.source == OWN_STATE
        behind = ~own & (before.roles == ROLE_WORD)
        for kept in (own, behind):
            assert torch.equal(after.targets[kept], before.targets[kept])
        assert bool(own[:, 0].all())
        for role in (ROLE_CONCEPT, ROLE_EOS, ROLE_PAD):
            vectors.setdefault(role, []).extend(after.targets[~own & (before.roles == role)])
    first = {role: found[0] for role, found in vectors.items()}
    assert set(first) == {ROLE_CONCEPT, ROLE_EOS, ROLE_PAD}
    for role, found in vectors.items():
        assert all(torch.equal(vector, first[role]) for vector in found)
    assert not torch.allclose(first[ROLE_CONCEPT], first[ROLE_EOS])
    assert not torch.allclose(first[ROLE_EOS], first[ROLE_PAD])


def test_a_random_vector_has_mean_and_covariance_of_what_it_replaces() -> None:
    states = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    states = states @ torch.tensor([[2.0, 1.0], [0.0, 0.5]]) + torch.tensor([5.0, -3.0])
    generator = torch.Generator().manual_seed(1)
    drawn = torch.stack([_drawn_like(states, generator) for _ in range(20_000)])
    torch.testing.assert_close(drawn.mean(0), states.mean(0), atol=0.06, rtol=0)
    wanted = torch.cov(states.T, correction=0)
    torch.testing.assert_close(torch.cov(drawn.T), wanted, atol=0.15, rtol=0.05)


# Which positions are moved


@pytest.mark.parametrize(
    ("run_of", "moved"),
    [(NameOnlyRun, (ROLE_CONCEPT,)), (NameAndEndRun, (ROLE_CONCEPT, ROLE_EOS))],
)
def test_only_the_named_positions_count(run_of: type[UnlearnRun], moved: tuple[int, ...]) -> None:
    _, training, _ = prepared(run_of)
    for lesson in training.forget:
        assert set(lesson.roles.unique().tolist()) == {UNSUPERVISED, *moved}
        counts = lesson.roles != UNSUPERVISED
        wrong = torch.where(counts[..., None], lesson.targets, lesson.targets + 5.0)
        off = lesson.targets + 1.0
        near, far = (
            role_distance(states, lesson.targets, lesson.roles, training.scales)
            for states in (wrong, off)
        )
        assert torch.equal(near, torch.zeros_like(near))
        assert float(far.min()) > 0
    for lesson in training.keep:
        assert int(lesson.roles.min()) >= 0


# Negative guidance


def test_the_negative_target_lies_on_the_other_side_of_the_empty_prompt() -> None:
    empty, concept = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])
    assert torch.equal(negative_target(empty, concept, 1.0), torch.tensor([-1.0, 3.0]))
    assert torch.equal(negative_target(empty, concept, 3.0), torch.tensor([-5.0, 5.0]))


def test_the_picture_term_takes_its_target_from_the_unchanged_model() -> None:
    run, training, lora = prepared(NegativeRun, forget_weight=0.0, image_weight=1.0)
    loss, model = training.extra_loss, run.model
    assert isinstance(loss, NegativePictureLoss)
    disturb(lora)
    state = loss.generator.get_state()
    batch = loss._batch(0)

    replay = torch.Generator()
    replay.set_state(state)
    rows = torch.randint(len(loss.prompts), (BATCH,), generator=replay)
    clean = loss.latents[torch.randint(len(loss.latents), (BATCH,), generator=replay)]
    noise = torch.randn(clean.shape, generator=replay)
    t = draw_timesteps(BATCH, replay)
    noisy = add_noise(clean, noise, t, model.alphas_cumprod)
    with torch.no_grad(), lora.disabled():
        concept = model.predict(noisy, t, run.encoder.encode(loss.prompts.token_ids[rows]))
        empty = model.predict(noisy, t, run.encoder.encode(token_ids("")).expand(BATCH, -1, -1))
    # The run's text encoder may compute in bfloat16.
    wrong = (batch.target - (2 * empty - concept)).norm()
    assert wrong < 0.1 * (batch.target - empty).norm()
    assert loss._batch(len(loss.bank)).rows is not batch.rows


# What is kept


def test_the_prompts_that_moved_most_are_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MINED", 3)
    run, training, lora = prepared(MinedRun)
    disturb(lora)
    miner: Any = training._learn.__self__  # type: ignore[attr-defined]
    drifts: list[float] = []
    for lesson in miner.candidates:
        states = run.encoder.tail(lesson.states).detach()
        drifts += role_distance(states, lesson.targets, lesson.roles, training.scales).tolist()
    found = [drift for lesson in miner.worst() for drift in miner._drift(lesson).tolist()]
    assert sorted(found) == pytest.approx(sorted(drifts)[-3:], rel=1e-4)


def test_mining_takes_place_every_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MINED_EVERY", 3)
    _, training, _ = prepared(MinedRun, steps=7)
    before = sum(map(len, training.keep))
    training.run(Recorder())
    assert sum(map(len, training.keep)) == before + 2 * keeping.MINED


def test_mined_prompts_are_plain_different_and_of_both_kinds() -> None:
    run, _, _ = prepared(MinedRun)
    prompts = plain_keep_prompts(run._plans[0], torch.Generator().manual_seed(0))
    assert len(set(prompts.texts)) == len(prompts.texts) == len(prompts.token_ids) > 60
    assert not any("dog" in text.split() for text in prompts.texts)
    assert any("mosaic style" in text for text in prompts.texts)
    assert "a photo of a cat" in prompts.texts


def test_only_random_words_are_kept_and_none_of_the_nearest() -> None:
    near, far = prepared(UnlearnRun)[0], prepared(FarKeepRun)[0]
    nearest, plan = near._plans[0].kept, far._plans[0]
    assert len(nearest) == 4
    assert set(nearest).isdisjoint({*plan.kept, *plan.others})
    assert set(plan.kept) == set(plan.others)
    assert plan.kept != plan.others
    assert far.parts[0].kept == ()


# The stand-ins and the adversary


def test_without_a_stand_in_the_words_close_up() -> None:
    run, _, _ = prepared(EmptyStandInRun)
    assert run.parts[0].stand_in.word == ""
    prompts = run._plans[0].writer.forget([Name.of("dog")], run._plans[0].stand_in, 4)
    lengths = (prompts.token_ids != 0).sum(1) - (prompts.stand_in_ids != 0).sum(1)
    assert set(lengths.tolist()) <= {1, 2}  # the name, and its article where it has one


def test_the_far_stand_in_is_the_farthest_candidate() -> None:
    near, far = (prepared(of)[0].parts[0].stand_in.word for of in (UnlearnRun, FarStandInRun))
    assert near != far
    run, _, _ = prepared(FarStandInRun)
    assert run._plans[0].stand_in.text == far


def test_an_inverter_goes_on_learning_and_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverter, "SEARCHED", (1, 2))
    monkeypatch.setattr(inverter, "RESTARTED", 2)
    settings = make_settings(use_pictures=False, stand_in_pictures=0, adversary_steps=3)
    run = InversionLoopRun(TinyModel(), [Concept("dog", images=PICTURES)], settings, Recorder())
    run._decide(run.concepts[0])
    run.encoder.split_at(min(key.layer for key in run.modules))
    lora = EncoderLora(run.encoder, run.modules, settings.rank, run.generator)
    searcher = Inverter(run, lora)
    assert [len(name.ids) for name in searcher.names] == [1, 2]
    lessons = searcher.find()
    assert sum(map(len, lessons)) == 2 * inverter.FOUND_PROMPTS
    first = searcher.vectors
    moved = first.detach().clone()
    searcher.find()
    assert searcher.vectors is first
    assert not torch.equal(first.detach(), moved)
    searcher.find()
    assert searcher.vectors is not first


# What the eraser is told


@pytest.fixture(scope="module")
def tiny() -> Erased:
    model = TinyModel()
    return Erased(model, build_encoder(model), "base")


def test_fewer_pictures_are_the_first_and_more_are_drawn_by_the_model(tiny: Erased) -> None:
    dog = Concept("dog", images=PICTURES)
    assert with_pictures(1)(dog, tiny, 0).images == PICTURES[:1]
    found, again = (with_pictures(len(PICTURES) + 2)(dog, tiny, seed).images for seed in (0, 1))
    assert found[: len(PICTURES)] == PICTURES
    assert len(found) == len(PICTURES) + 2
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    other = with_pictures(len(PICTURES) + 2)(dog.replace(name="cat"), tiny, 0).images
    assert not torch.equal(found[-1], other[-1])


def test_a_stand_in_by_hand_is_told_for_every_concept_of_the_ablations(tiny: Erased) -> None:
    assert set(ablations.CONCEPTS) == set(BY_HAND)
    told = to_a_stand_in(Concept("dog", images=PICTURES), tiny, 0)
    assert (told.name, told.stand_in, told.images) == ("dog", "cat", PICTURES)


def test_a_nonsense_name_keeps_pictures_and_kind(tiny: Erased) -> None:
    told = under_a_nonsense_name(Concept("neon", kind="style", images=PICTURES), tiny, 0)
    assert (told.name, told.kind, told.images) == (NONSENSE, "style", PICTURES)


def test_without_a_name_what_is_found_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def find(model: Any, nameless: Nameless, seed: int, monitor: Any) -> tuple[Concept, None]:
        asked.append((nameless.kind, nameless.images, seed))
        return nameless.named("cat"), None

    monkeypatch.setattr(telling, "find_name", find)
    unnamed = small("no_name")
    assert asked == [("object", PICTURES, 0)]
    assert unnamed.notes["name"] == "cat"
    assert small("nonsense_name_alone").notes["name"] == NONSENSE


# The families of the ablations


@pytest.mark.parametrize("family", ablations.FAMILIES)
def test_no_two_methods_of_a_family_are_the_same(family: str) -> None:
    methods = [find_method(name) for name in ablations.FAMILIES[family]]
    assert len(set(methods)) == len(methods) > 1


@pytest.mark.parametrize("setting", ["loop: layers", "loop: modules"])
def test_layers_and_modules_have_equal_budgets(setting: str) -> None:
    def weights(name: str) -> int:
        found = find_method(name)
        assert isinstance(found, Preset)
        keys = chosen_modules(found.settings, last_used_layer=5)
        sizes = {"fc1": 192 + 768, "fc2": 768 + 192}
        return sum(found.settings.rank * sizes.get(key.module, 192 + 192) for key in keys)

    loop, *others = (weights(name) for name in ablations.FAMILIES[setting])
    assert all(0.95 * loop <= other <= 1.05 * loop for other in others)


def test_adversaries_and_layers_are_attacked_and_no_other_family_is() -> None:
    every = ablations.ablation_plan(tuple(ablations.FAMILIES)).jobs(ablations.STAGES)
    attacks = [job for job in every if job.stage == "attacks"]
    families = (ablations.FAMILIES["loop: adversary"], ablations.FAMILIES["loop: layers"])
    assert {job.method for job in attacks} == {"base", *families[0], *families[1]}
    assert all(job.concept in SHOWN and job.concept in TUNING for job in attacks)
    assert len(set(every)) == len(every)
    modules = ablations.ablation_plan(("loop: modules",)).jobs(ablations.STAGES)
    assert {job.stage for job in modules} == {"sweeps"}
    assert {job.seed for job in modules} == {0, 1, 2}
    assert {job.concept for job in modules} <= set(TUNING)
    with pytest.raises(BadSettings, match="loop: nothing"):
        ablations.ablation_plan(("loop: nothing",))
