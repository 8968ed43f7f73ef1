"""The families of the ablations: what they vary, and what of them is attacked."""

from __future__ import annotations

import pytest

from bench.attacks.pictures import SHOWN
from bench.methods.find import find_method
from bench.methods.preset import Preset
from bench.protocol.splits import TUNING
from bench.trials import ablations
from unlearn_core.errors import BadSettings
from unlearn_core.lora.encoder_lora import chosen_modules


@pytest.mark.parametrize("family", ablations.FAMILIES)
def test_no_two_methods_of_a_family_are_the_same(family: str) -> None:
    methods = [find_method(name) for name in ablations.FAMILIES[family]]
    assert len(set(methods)) == len(methods) > 1


@pytest.mark.parametrize("setting", ["loop: layers", "loop: modules"])
def test_layers_and_modules_have_equal_budgets(setting: str) -> None:
    def weights(name: str) -> int:
        found = find_method(name)
        assert isinstance(found, Preset)
        keys = chosen_modules(found.settings, 5)
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
