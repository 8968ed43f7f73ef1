"""The engine: makes a diffusion model forget a concept, by a LoRA of its text encoder.

It knows torch and nothing of any host or user interface. What it is used by:

Concept            what to forget: names, kind, stand-in, what must stay, pictures
Nameless           the same without a name, which is then found in the pictures
UnlearnSettings    how to forget: every setting with its default, bounds and help
PRESETS            the presets by name
preset             a preset's settings, some of them changed
UnlearnError       what every error of the engine is
Progress           one report of a running job
RunMonitor         where a host shows progress, and its user asks to stop
LentModel          what a host lends: text encoder weights, UNet, VAE
ModelAdapter       the base of every host's LentModel
Conditioning       what the UNet gets of a prompt
Family             what is alike in all models of one family
SD2                the family of Stable Diffusion 2
recognise          the family of a model, or a refusal in one sentence
load_model         a LentModel from "demo", a diffusers folder or a single file
DiffusersModel     a LentModel over a diffusers pipeline
read_pictures      the pictures of a folder
unlearn            a concept in, a LoRA out
unlearn_together   several concepts in, one LoRA out
learn_vectors      textual inversion alone
UnlearnResult      what a run gives back
LoraWeights        a LoRA's weights and metadata
load_lora          a LoRA from its file
save_lora          a LoRA into its file, whole or not at all
evaluate           numbers and pictures of before and after

Names are loaded when they are first asked for: importing the engine imports no torch. Whoever needs
more imports it from its room; each room's `__init__` says what it is for, and rooms import rooms
below them only (tests/repository/test_rooms.py has the order).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .concept import Concept, Nameless
    from .errors import UnlearnError
    from .files.pictures import read_pictures
    from .forgetting.unlearn import UnlearnResult, learn_vectors, unlearn, unlearn_together
    from .loaders.diffusers_model import DiffusersModel, load_model
    from .lora.file import load_lora, save_lora
    from .lora.weights import LoraWeights
    from .measuring.evaluation import evaluate
    from .models.adapter import ModelAdapter
    from .models.families import SD2, Family, recognise
    from .models.lent_model import LentModel
    from .progress import Progress, RunMonitor
    from .settings import PRESETS, UnlearnSettings, preset
    from .text.conditioning import Conditioning

_HOMES = {
    "concept": ("Concept", "Nameless"),
    "errors": ("UnlearnError",),
    "files.pictures": ("read_pictures",),
    "loaders.diffusers_model": ("DiffusersModel", "load_model"),
    "lora.file": ("load_lora", "save_lora"),
    "lora.weights": ("LoraWeights",),
    "measuring.evaluation": ("evaluate",),
    "models.adapter": ("ModelAdapter",),
    "models.families": ("SD2", "Family", "recognise"),
    "models.lent_model": ("LentModel",),
    "progress": ("Progress", "RunMonitor"),
    "settings": ("PRESETS", "UnlearnSettings", "preset"),
    "text.conditioning": ("Conditioning",),
    "forgetting.unlearn": ("UnlearnResult", "learn_vectors", "unlearn", "unlearn_together"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "PRESETS",
    "SD2",
    "Concept",
    "Conditioning",
    "DiffusersModel",
    "Family",
    "LentModel",
    "LoraWeights",
    "ModelAdapter",
    "Nameless",
    "Progress",
    "RunMonitor",
    "UnlearnError",
    "UnlearnResult",
    "UnlearnSettings",
    "evaluate",
    "learn_vectors",
    "load_lora",
    "load_model",
    "preset",
    "read_pictures",
    "recognise",
    "save_lora",
    "unlearn",
    "unlearn_together",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
