"""The methods by name: the unchanged model, our presets, and the rivals of `bench.rivals`.

A rival's plain name means its `FITTED` settings; "NAME:published" and "NAME:newest" are those of
its paper and of its repository today, "NAME:0", "NAME:1", ... those of its SWEEP. A preset's plain
name means the preset, "quick:steps=12+layers=last:2" the same with other settings.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import Any

from bench.erased import Erased, Method, Task
from unlearn_core.concept import Concept
from unlearn_core.errors import BadSettings
from unlearn_core.lora_file import LoraWeights, lora_bytes
from unlearn_core.lora_math import apply_lora
from unlearn_core.settings import UnlearnSettings, preset
from unlearn_core.text_encoder import TextEncoder
from unlearn_core.unlearn import unlearn

BASE = "base"
OURS = ("quick", "balanced", "robust", "paper")
RIVALS = ("uce", "esd", "concept_ablation", "few_shot_erasing", "negative_prompt")
METHODS = (BASE, *OURS, *RIVALS)
REFITTED = ("uce:3", "esd:2", "concept_ablation:2", "negative_prompt:3")
"""Of each rival the settings with the highest median H_o in three seeds of the sweeps, where these
are not FITTED, which was chosen by one seed. Few-shot erasing's are."""


@dataclass(frozen=True)
class Preset:
    """One of our presets. It is told the name, the kind and the pictures, and no synonym."""

    name: str
    changes: tuple[tuple[str, Any], ...] = ()
    """(setting, value)."""

    @property
    def settings(self) -> UnlearnSettings:
        """What it runs with; raises BadSettings."""
        return preset(self.name, **dict(self.changes))

    def __call__(self, base: Erased, task: Task) -> Erased:
        """See Method; raises UnlearnError."""
        settings = self.settings.replace(seed=task.seed)
        images = task.images if settings.use_pictures or settings.needs_unet else ()
        concept = Concept(task.name, kind=task.kind, images=images)
        result = unlearn(base.model, concept, settings)
        notes = {"stand-in": result.stand_in.word}
        if result.learned is not None:
            notes["pictures explained"] = f"{result.learned.explained:.0%}"
        return dataclasses.replace(
            with_lora(base, result.lora), notes=notes, file_bytes=len(lora_bytes(result.lora))
        )


def with_lora(base: Erased, lora: LoraWeights, strength: float = 1.0) -> Erased:
    """The base with a LoRA on its text encoder, as a loader puts it there."""
    weights = apply_lora(base.model.text_encoder_weights(), lora, strength)
    encoder = TextEncoder(weights, base.model.last_used_layer, base.model.device)
    return dataclasses.replace(base, encoder=encoder, family="text encoder", lora=lora)


def find_method(name: str) -> Method:
    """The method of that name, "base" too; raises BadSettings for an unknown one."""
    rival, _, variant = name.partition(":")
    if name == BASE:
        return lambda base, task: base
    if rival in OURS:
        return _changed_preset(rival, variant)
    if rival in RIVALS:
        found = _variants(rival).get(variant or "fitted")
        if found is not None:
            return found
    known = ", ".join((*METHODS, *(f"{rival}:published" for rival in RIVALS)))
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


def parsed_changes(name: str, changes: str) -> dict[str, Any]:
    """The settings in "steps=12+layers=last:2", for a method `name`; raises BadSettings."""
    known = UnlearnSettings().as_dict()
    values: dict[str, Any] = {}
    for change in filter(None, changes.split("+")):
        setting, _, text = change.partition("=")
        kind = type(known.get(setting, ""))
        try:
            values[setting] = text == "True" if kind is bool else kind(text)
        except ValueError:
            raise BadSettings(f"{change!r} in {name}:{changes} is no {kind.__name__}.") from None
    return values


def _variants(rival: str) -> dict[str, Method]:
    module = importlib.import_module(f"bench.rivals.{rival}")
    variants = {"published": module.PUBLISHED, "fitted": module.FITTED}
    if hasattr(module, "NEWEST"):
        variants["newest"] = module.NEWEST
    return variants | {str(number): method for number, method in enumerate(module.SWEEP)}
