"""Our presets as methods, with settings changed where their name says so."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bench.protocol.erased import Erased, Task
from unlearn_core.concept import Concept
from unlearn_core.errors import BadSettings
from unlearn_core.forgetting.unlearn import unlearn
from unlearn_core.lora.file import lora_bytes
from unlearn_core.lora.weights import LoraWeights, apply_lora
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.settings import UnlearnSettings, preset

OURS = ("quick", "balanced", "robust", "paper")


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
        images = task.images if settings.uses_pictures else ()
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
    encoder = build_encoder(base.model, weights)
    return dataclasses.replace(base, encoder=encoder, family="text encoder", lora=lora)


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
