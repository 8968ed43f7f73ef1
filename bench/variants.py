"""Ideas of the literature that the engine lacks, tried beside it: "variant:NAME" is a method.

All start from LOOP, the preset balanced on words alone; "variant:NAME+steps=50" changes settings on
top. What an idea needs beyond settings is in `bench.ideas`: a subclass of the engine's run, which
works over the `Training` that the engine has prepared.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bench.erased import Erased, Task
from bench.ideas.inverter import InversionLoopRun
from bench.ideas.keeping import FarKeepRun, MinedRun, SurgeryRun
from bench.ideas.objectives import NegativeRun, RandomVectorRun
from bench.ideas.stand_ins import EmptyStandInRun, FarStandInRun
from bench.methods import Preset, parsed_changes, with_lora
from unlearn_core.concept import Concept
from unlearn_core.errors import BadSettings
from unlearn_core.lent_model import SilentMonitor
from unlearn_core.lora_file import lora_bytes
from unlearn_core.settings import UnlearnSettings, preset
from unlearn_core.unlearn_run import UnlearnRun

FAMILY = "variant"
LOOP: dict[str, Any] = {"use_pictures": False, "stand_in_pictures": 0}
"""Changes to balanced: 150 steps on the last three layers, words alone."""


@dataclass(frozen=True)
class Idea:
    """A run, and the settings that it starts from."""

    run: type[UnlearnRun]
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """On top of LOOP."""
    takes_pictures: bool = False
    """Whether it wants pictures that its settings don't ask for."""


IDEAS: dict[str, Idea] = {
    "esd_negative": Idea(NegativeRun, {"forget_weight": 0.0, "image_weight": 1.0}),
    "esd_negative_mixed": Idea(NegativeRun, {"image_weight": 1.0}),
    "stand_in_unet": Idea(UnlearnRun, {"forget_weight": 0.0, "image_weight": 1.0}),
    "stand_in_mixed": Idea(UnlearnRun, {"image_weight": 1.0}),
    "random_vector": Idea(RandomVectorRun),
    "ascent_text_keep": Idea(UnlearnRun, {"objective": "ascent"}),
    "gradient_surgery": Idea(SurgeryRun),
    "mined_keep": Idea(MinedRun),
    "keep_random": Idea(FarKeepRun),
    "stand_in_empty": Idea(EmptyStandInRun),
    "stand_in_far": Idea(FarStandInRun),
    "inversion_loop": Idea(InversionLoopRun, {"adversary_steps": 10}, takes_pictures=True),
}


@dataclass(frozen=True)
class Variant(Preset):
    """One of IDEAS, told what a preset is told."""

    @property
    def settings(self) -> UnlearnSettings:
        """What it runs with; raises BadSettings."""
        return preset("balanced", **(LOOP | IDEAS[self.name].changes | dict(self.changes)))

    def __call__(self, base: Erased, task: Task) -> Erased:
        """See Method; raises UnlearnError."""
        settings, idea = self.settings.replace(seed=task.seed), IDEAS[self.name]
        wants = idea.takes_pictures or settings.use_pictures or settings.needs_unet
        concept = Concept(task.name, kind=task.kind, images=task.images if wants else ())
        run = idea.run(base.model, (concept,), settings, SilentMonitor())
        lora, _ = run.go()
        notes = {"stand-in": run.parts[0].stand_in.word}
        size = len(lora_bytes(lora))
        return dataclasses.replace(with_lora(base, lora), notes=notes, file_bytes=size)


def find_variant(text: str) -> Variant:
    """The variant for "NAME" or "NAME+steps=50+rank=4"; raises BadSettings."""
    name, _, changes = text.partition("+")
    if name not in IDEAS:
        raise BadSettings(f"There is no variant {name!r}. Known: {', '.join(IDEAS)}.")
    found = Variant(name, tuple(parsed_changes(f"{FAMILY}:{name}", changes).items()))
    _ = found.settings  # refuses bad values before anything is drawn
    return found
