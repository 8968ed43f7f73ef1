"""The optimisation loop: what moves, what stays, how it stops."""

from collections.abc import Callable

import pytest
import torch
from tiny_model import Recorder, draw, make_settings, make_writer, tiny_tower
from torch import Tensor

from unlearn_core.errors import Cancelled, TrainingFailed
from unlearn_core.lora.encoder_lora import EncoderLora, chosen_modules
from unlearn_core.lora.keys import text_module
from unlearn_core.lora.null_space import felt_directions, project_away
from unlearn_core.progress import FORGETTING, StepReports
from unlearn_core.settings import UnlearnSettings
from unlearn_core.text.token_trees import encode_all
from unlearn_core.text.tower_encoder import TowerEncoder
from unlearn_core.training.adversary import EVERY, AdversarialExamples
from unlearn_core.training.examples import (
    Examples,
    ForgetExamples,
    forget_examples,
    retain_examples,
    role_scales,
    whole_examples,
)
from unlearn_core.training.loop import STRENGTHS, Training
from unlearn_core.training.losses import drift
from unlearn_core.training.terms import ForgetTerm, RetainTerm, TextDistance
from unlearn_core.words.prompt_templates import GUARD_PROMPTS
from unlearn_core.words.prompts import Name, whole_prompts

DOG, OWL = Name.of("dog"), Name.of("owl")


class Tried(Training):
    """A training with the parts that it was made of."""

    tower: TowerEncoder
    retain: RetainTerm
    forget: ForgetTerm

    @property
    def lora(self) -> EncoderLora:
        (lora,) = self.loras
        return lora

    @property
    def guard(self) -> Examples:
        return self.retain.guard

    def train(self, monitor: Recorder) -> list[float]:
        return self.run(monitor, StepReports(monitor, FORGETTING, self.settings.steps))


def make_training(
    settings: UnlearnSettings | None = None, seed: int = 0, cached: bool = True
) -> Tried:
    """Without the cache every pass goes through the frozen layers before the LoRA, too."""
    settings = settings or make_settings(steps=12, layers="last:2")
    tower = tiny_tower()
    modules = chosen_modules(settings, tower.conditioning_layer)
    tower.split_at(modules[0].layer if cached else 0)
    generator = torch.Generator().manual_seed(seed)
    lora = EncoderLora(tower, modules, settings.rank, generator)
    writer = make_writer(seed=seed)
    forget = forget_examples(lora, writer.forget([DOG], OWL, 24), None)
    names = [Name.of(word) for word in ("cat", "car", "owl", "fox")]
    retain = retain_examples(lora, writer.keep(names, 24))
    guard = whole_examples(lora, whole_prompts(GUARD_PROMPTS))
    distance = TextDistance(tower, role_scales(retain), settings.batch_size, generator)
    bases = felt_directions(lora, guard.token_ids) if settings.null_space_guard else {}
    weights = settings.keep_weight, settings.guard_weight
    terms = (
        RetainTerm(distance, retain, guard, *weights),
        ForgetTerm(distance, forget, settings.forget_weight),
    )
    training = Tried([lora], terms, settings, generator, [bases], lambda: torch.ones(3, 2, 2))
    training.tower, (training.retain, training.forget) = tower, terms
    return training


def weights_of(training: Tried) -> list[Tensor]:
    return [p.detach().clone() for p in training.lora.parameters()]


def frozen_weights(training: Tried) -> dict[str, Tensor]:
    named = training.tower.model.named_parameters()
    return {name: p.detach().clone() for name, p in named if ".lora_" not in name}


@torch.no_grad()
def forget_distance(training: Tried) -> float:
    return sum(
        float(part) * len(examples)
        for examples in training.forget.forget
        for part in training.forget.distance.weighted((examples, 1.0))
    )


def test_only_the_lora_moves() -> None:
    training = make_training()
    frozen, trained = frozen_weights(training), weights_of(training)
    training.train(Recorder())
    named = dict(training.tower.model.named_parameters())
    for name, before in frozen.items():
        assert torch.equal(named[name], before), name
        assert named[name].grad is None, name
    for before, now in zip(trained, training.lora.parameters(), strict=True):
        assert not torch.equal(before, now)


def test_the_loss_falls_and_the_concept_comes_nearer_to_the_stand_in() -> None:
    training = make_training(make_settings(steps=60, batch_size=8, learning_rate=0.01, rank=8))
    before = forget_distance(training)
    losses = training.train(Recorder())
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.8 * sum(losses[:5]) * 2
    assert forget_distance(training) < 0.7 * before


def test_the_strength_is_one_again_afterwards() -> None:
    training = make_training(make_settings(steps=2, layers="last:1"))
    training.train(Recorder())
    one = training.tower.encode(training.guard.token_ids)
    training.lora.set_strength(1.0)
    assert torch.equal(training.tower.encode(training.guard.token_ids), one)


def test_strengths_are_drawn_between_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    training = make_training(make_settings(steps=30))
    drawn: list[float] = []
    monkeypatch.setattr(training.lora, "set_strength", drawn.append)
    training.train(Recorder())
    varied = [strength for strength in drawn if strength != 1.0]
    assert len(varied) == 30
    low, high = STRENGTHS
    assert low <= min(varied) < low + 0.1
    assert high - 0.1 < max(varied) <= high


def test_ascent_is_trained_at_full_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    training = make_training(make_settings(steps=5, objective="ascent"))
    drawn: list[float] = []
    monkeypatch.setattr(training.lora, "set_strength", drawn.append)
    training.train(Recorder())
    assert set(drawn) == {1.0}


def test_every_step_is_reported_and_asked_about() -> None:
    training = make_training()
    monitor = Recorder()
    losses = training.train(monitor)
    assert [report.step for report in monitor.reports] == list(range(1, 13))
    assert {report.total for report in monitor.reports} == {12}
    assert {report.stage for report in monitor.reports} == {"forgetting"}
    assert [report.loss for report in monitor.reports] == losses
    assert monitor.reports[-1].seconds_left == 0
    assert monitor.asked == 12


def test_previews_are_shown_a_few_times_at_full_strength() -> None:
    training = make_training()
    monitor = Recorder()
    training.train(monitor)
    assert [r.step for r in monitor.reports if r.preview is not None] == [3, 6, 9, 12]


@pytest.mark.parametrize("step", [0, 5])
def test_it_stops_when_asked_and_the_lora_comes_off(step: int) -> None:
    training = make_training()
    plain = tiny_tower().encode(training.guard.token_ids)
    monitor = Recorder(stop_at=step)
    with pytest.raises(Cancelled):
        training.train(monitor)
    assert len(monitor.reports) == step
    assert any(bool(training.lora.up(key).any()) for key in training.lora.modules) == (step > 0)
    training.lora.detach()
    assert torch.equal(training.tower.encode(training.guard.token_ids), plain)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_fails_before_it_does_harm(value: float) -> None:
    training = make_training()
    training.terms = [
        *training.terms,
        lambda step: iter([torch.tensor(value if step == 2 else 0.0)]),
    ]
    with pytest.raises(TrainingFailed, match=r"at step 3: the learning rate 0\.003 is too high"):
        training.train(Recorder())
    assert all(bool(weight.isfinite().all()) for weight in weights_of(training))


def test_prompts_encoded_alone_train_the_same_lora_as_those_that_share_their_prefixes() -> None:
    shared, alone = make_training(), make_training()
    with alone.lora.disabled():
        for examples in (*alone.forget.forget, *alone.retain.retain, alone.guard):
            each = [encode_all(alone.tower, ids[None])[0] for ids in examples.token_ids]
            examples.states = torch.cat(each)
        for examples in (*alone.retain.retain, alone.guard):
            examples.targets = alone.tower.encode(examples.token_ids)
    for training in (shared, alone):
        training.train(Recorder())
    for one, other in zip(weights_of(shared), weights_of(alone), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_states_that_are_cached_before_the_lora_train_the_same_lora_as_whole_passes() -> None:
    cached, whole = make_training(), make_training(cached=False)
    assert not torch.equal(cached.retain.retain[0].states, whole.retain.retain[0].states)
    for training in (cached, whole):
        training.train(Recorder())
    for one, other in zip(weights_of(cached), weights_of(whole), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_gradients_added_up_by_micro_batch_are_those_of_the_whole_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, by_term = make_training(), make_training()
    for training in (whole, by_term):
        for number, key in enumerate(training.lora.modules):
            with torch.no_grad():
                training.lora.up(key).copy_(draw(*training.lora.up(key).shape, seed=number))
    parts = [part for term in whole.terms for part in term(0)]
    loss = torch.stack(parts).sum()
    loss.backward()
    monkeypatch.setattr("unlearn_core.training.terms.MICRO_BATCH_TOKENS", 50)
    assert by_term.add_gradients(0) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert len([part for term in by_term.terms for part in term(0)]) > len(parts)
    parameters = zip(whole.lora.parameters(), by_term.lora.parameters(), strict=True)
    for one, other in parameters:
        torch.testing.assert_close(other.grad, one.grad, atol=1e-6, rtol=1e-4)


def test_no_steps_change_nothing() -> None:
    training = make_training(make_settings(steps=0))
    before = weights_of(training)
    assert training.train(Recorder()) == []
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(training), strict=True))


def test_the_same_seed_trains_the_same_tensors() -> None:
    def train(seed: int) -> list[Tensor]:
        training = make_training(seed=seed)
        training.train(Recorder())
        return weights_of(training)

    state = torch.random.get_rng_state()
    first, again, other = train(0), train(0), train(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_every_prompt_is_as_likely_as_any_other() -> None:
    training = make_training(make_settings(batch_size=8))
    sets = training.forget.forget
    assert len(sets) > 1
    drawn = [training.forget.distance.draw(sets).length for _ in range(2000)]
    total = sum(len(examples) for examples in sets)
    for examples in sets:
        assert drawn.count(examples.length) / 2000 == pytest.approx(len(examples) / total, abs=0.05)


def test_a_weight_of_zero_leaves_its_term_out() -> None:
    training = make_training(make_settings(keep_weight=0.0, guard_weight=0.0, steps=3))
    only_forget = training.train(Recorder())[0]
    training = make_training(make_settings(forget_weight=0.0, guard_weight=0.0, steps=3))
    assert only_forget > 0.1
    assert training.train(Recorder())[0] == pytest.approx(0, abs=1e-6)


def test_the_adversary_is_asked_every_few_steps_and_its_rows_are_added() -> None:
    training = make_training(make_settings(steps=2 * EVERY + 1))
    term = training.forget
    asked: list[int] = []
    count, found = len(term.forget), term.forget[:2]

    class Adversary:
        def find(self) -> list[ForgetExamples]:
            asked.append(len(term.forget))
            return found

    training.before_step = [AdversarialExamples([Adversary()], term)]  # type: ignore[list-item]
    training.train(Recorder())
    assert asked == [count, count + 2]
    assert len(term.forget) == count + 4


# The null-space guard


def projected_drift(guard: Callable[[Examples], Examples], project: bool) -> tuple[float, float]:
    """Drift of the guard and of the prompts to forget, under a LoRA drawn at random."""
    training = make_training(make_settings(layers="last:1", modules="mlp", null_space_guard=False))
    tower, lora = training.tower, training.lora
    examples = guard(training.guard)
    with torch.no_grad():
        for number, key in enumerate(lora.modules):
            lora.up(key).copy_(draw(*lora.up(key).shape, seed=number))
    if project:
        project_away(lora, felt_directions(lora, examples.token_ids))
    drifts = []
    with torch.no_grad():
        for some in (examples, training.forget.forget[0]):
            states = tower.tail(some.states)
            drifts.append(float(drift(states, some.targets).max()))
    return drifts[0], drifts[1]


def first_positions(count: int) -> Callable[[Examples], Examples]:
    return lambda examples: examples.rows(torch.tensor([0])).cut(count)


def test_a_projected_lora_changes_nothing_that_the_basis_covers() -> None:
    cut = first_positions(8)
    without, _ = projected_drift(cut, project=False)
    with_guard, elsewhere = projected_drift(cut, project=True)
    assert without > 0.1
    assert with_guard < 2e-3
    assert elsewhere > 0.1


def test_the_guard_weakens_the_drift_of_all_guard_prompts() -> None:
    without, _ = projected_drift(lambda examples: examples, project=False)
    with_guard, _ = projected_drift(lambda examples: examples, project=True)
    assert with_guard < 0.7 * without


def test_the_basis_is_orthonormal_and_no_larger_than_its_share() -> None:
    training = make_training()
    bases = felt_directions(training.lora, training.guard.token_ids)
    assert bases.keys() == set(training.lora.modules)
    for key, basis in bases.items():
        width = training.lora.down(key).shape[1]
        assert basis.shape[0] == width
        assert 1 <= basis.shape[1] <= width // 2
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5, rtol=1e-5)
    hooked = [m for m in training.tower.model.modules() if m._forward_pre_hooks]
    assert hooked == []


def test_training_keeps_down_orthogonal_to_the_basis() -> None:
    training = make_training()
    (bases,) = training.bases
    assert bases
    training.train(Recorder())
    for key, basis in bases.items():
        assert float((training.lora.down(key).detach() @ basis).abs().max()) < 1e-5


def test_without_the_guard_nothing_is_projected() -> None:
    training = make_training(make_settings(null_space_guard=False, steps=1))
    training.train(Recorder())
    key = text_module(2, "fc2")
    basis = felt_directions(training.lora, training.guard.token_ids)[key]
    assert float((training.lora.down(key).detach() @ basis).abs().max()) > 1e-2
