"""What the engine has no setting for, tried beside it: "variant:NAME" is a method.

Ideas of the literature, and other ways to tell the eraser what to forget. All start from LOOP, the
preset balanced on words alone; "variant:NAME+steps=50" changes settings on top. What an idea needs
beyond settings is in `bench.ideas`: a subclass of the engine's run, which works over the `Training`
that the engine has prepared.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bench.erased import Erased, Task
from bench.ideas.inverter import InversionLoopRun
from bench.ideas.keeping import FarKeepRun, MinedRun, SurgeryRun
from bench.ideas.objectives import NameAndEndRun, NameOnlyRun, NegativeRun, RandomVectorRun
from bench.ideas.stand_ins import EmptyStandInRun, FarStandInRun
from bench.ideas.telling import (
    Told,
    as_it_is,
    to_a_stand_in,
    under_a_nonsense_name,
    with_pictures,
    without_name,
)
from bench.methods import Preset, parsed_changes, with_lora
from unlearn_core.concept import Concept
from unlearn_core.errors import BadSettings
from unlearn_core.forgetting.run import UnlearnRun
from unlearn_core.lora.file import lora_bytes
from unlearn_core.progress import SilentMonitor
from unlearn_core.settings import UnlearnSettings, preset

FAMILY = "variant"
LOOP: dict[str, Any] = {"use_pictures": False, "stand_in_pictures": 0}
"""Changes to balanced: 150 steps on the last three layers, words alone."""
SEEN: dict[str, Any] = {"use_pictures": True}
"""The same and vectors learned from the pictures."""


@dataclass(frozen=True)
class Idea:
    """A run, and the settings that it starts from."""

    run: type[UnlearnRun]
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """On top of LOOP."""
    takes_pictures: bool = False
    """Whether it wants pictures that its settings don't ask for."""
    told: Told = as_it_is


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
    "stand_in_by_hand": Idea(UnlearnRun, told=to_a_stand_in),
    "name_only": Idea(NameOnlyRun),
    "name_and_end": Idea(NameAndEndRun),
    "inversion_loop": Idea(InversionLoopRun, {"adversary_steps": 10}, takes_pictures=True),
    "pictures_1": Idea(UnlearnRun, SEEN, told=with_pictures(1)),
    "pictures_4": Idea(UnlearnRun, SEEN, told=with_pictures(4)),
    "pictures_16": Idea(UnlearnRun, SEEN, told=with_pictures(16)),
    "no_name": Idea(UnlearnRun, SEEN, takes_pictures=True, told=without_name),
    "nonsense_name": Idea(UnlearnRun, SEEN, told=under_a_nonsense_name),
    "nonsense_name_alone": Idea(UnlearnRun, told=under_a_nonsense_name),
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
        concept = idea.told(concept, base, task.seed)
        run = idea.run(base.model, (concept,), settings, SilentMonitor())
        lora, _ = run.go()
        notes = {"stand-in": run.parts[0].stand_in.word, "name": concept.name}
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
