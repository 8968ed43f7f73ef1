"""The attacks of `bench.attacks` by the names that jobs give them."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from bench.attacks import AttackCurve, pass_through, soft_prompt, textual_inversion, words
from bench.protocol.cells import World
from bench.protocol.erased import Erased

MODULES = {
    "inversion 1": textual_inversion,
    "inversion 4": textual_inversion,
    "soft prompt": soft_prompt,
    "pass-through": pass_through,
    "words": words,
}


def settings_for(attack: str, quick: bool) -> Any:
    """An attack's settings."""
    module = MODULES[attack]
    settings: Any = module.QUICK if quick else module.SETTINGS
    if attack.startswith("inversion"):
        return dataclasses.replace(settings, vectors=int(attack.split()[1]))
    return settings


def run_attack(
    attack: str,
    erased: Erased,
    concept: str,
    pictures: tuple[Tensor, ...],
    seed: int,
    world: World,
    quick: bool,
) -> AttackCurve:
    """One attack. Raises TrainingFailed."""
    module: Any = MODULES[attack]
    curve: AttackCurve = module.attack(
        erased, concept, pictures, settings_for(attack, quick), seed, world
    )
    return curve
