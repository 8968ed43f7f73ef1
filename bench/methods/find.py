"""The methods by name: the unchanged model, our presets, and the rivals of `bench.rivals`.

A rival's plain name means its `FITTED` settings; "NAME:published" and "NAME:newest" are those of
its paper and of its repository today, "NAME:0", "NAME:1", ... those of its SWEEP. A preset's plain
name means the preset, "quick:steps=12+layers=last:2" the same with other settings. "deep" is asked
for by name; it is not among METHODS, for it takes minutes a concept.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from bench.methods import deep
from bench.methods.preset import OURS, Preset, parsed_changes
from bench.protocol.erased import Method
from unlearn_core.errors import BadSettings
from unlearn_core.settings import preset

BASE = "base"
RIVALS = ("uce", "esd", "concept_ablation", "few_shot_erasing", "negative_prompt")
METHODS = (BASE, *OURS, *RIVALS)
REFITTED = ("uce:3", "esd:2", "concept_ablation:2", "negative_prompt:3")
"""Of each rival the settings with the highest median H_o in three seeds of the sweeps, where these
are not FITTED, which was chosen by one seed. Few-shot erasing's are."""


def find_method(name: str) -> Method:
    """The method of that name, "base" too; raises BadSettings for an unknown one."""
    rival, _, variant = name.partition(":")
    if name == BASE:
        return lambda base, task: base
    if name == deep.NAME:
        return deep.Deep()
    if rival in OURS:
        return _changed_preset(rival, variant)
    if rival in RIVALS:
        found = _variants(rival).get(variant or "fitted")
        if found is not None:
            return found
    known = ", ".join((*METHODS, deep.NAME, *(f"{rival}:published" for rival in RIVALS)))
    raise BadSettings(f"There is no method {name!r}. Known: {known}.")


def sweep_names(rival: str) -> list[str]:
    """Its published settings and those around the fitted ones, no settings twice."""
    variants = _variants(rival)
    fitted = variants.pop("fitted")
    names: dict[Any, str] = {}
    for variant, method in variants.items():
        names.setdefault(method, f"{rival}:{variant}")
    names.setdefault(fitted, rival)
    return list(names.values())


def settings_of(name: str) -> dict[str, Any]:
    """The settings of a method, for its row."""
    method = find_method(name)
    if isinstance(method, Preset):
        return method.settings.as_dict()
    return dataclasses.asdict(method) if dataclasses.is_dataclass(method) else {}  # type: ignore[arg-type]


def changed_settings(name: str) -> str:
    """How a variant differs from its preset, or from the rival's published settings."""
    rival, _, variant = name.partition(":")
    if rival not in RIVALS:
        return variant.replace("+", ", ")
    own, published = settings_of(name), settings_of(f"{rival}:published")
    return ", ".join(f"{key} {value}" for key, value in own.items() if value != published[key])


def _changed_preset(name: str, changes: str) -> Preset:
    values = parsed_changes(name, changes)
    preset(name, **values)  # refuses bad values before anything is drawn
    return Preset(name, tuple(values.items()))


def _variants(rival: str) -> dict[str, Method]:
    module = importlib.import_module(f"bench.rivals.{rival}")
    variants = {"published": module.PUBLISHED, "fitted": module.FITTED}
    if hasattr(module, "NEWEST"):
        variants["newest"] = module.NEWEST
    return variants | {str(number): method for number, method in enumerate(module.SWEEP)}
