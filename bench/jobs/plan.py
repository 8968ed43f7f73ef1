"""What a run does, as a list of jobs; an interrupted run has done the most useful ones.

main      every method on every concept; all of seed 0, then 1, then 2
curves    our LoRAs at strengths from -1 to 1.5; 0 and 1 are in main
stacking  1, 2, 5 and 10 concepts at once
attacks   on the unchanged model and the three methods of the best H_o, for one seed
sweeps    every rival's published settings and its sweep, on tuning concepts; those in SLOW once
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from bench.jobs.attack_jobs import settings_for
from bench.methods.find import BASE, METHODS, REFITTED, RIVALS, sweep_names
from bench.methods.preset import OURS
from bench.methods.stacking import MODES
from bench.protocol.layout import FULL, QUICK, Sizes
from bench.protocol.splits import ATTACKED, CONTROLS, SEEDS, TEST
from unlearn_core.concept import Kind

STAGES = ("main", "curves", "stacking", "attacks", "sweeps")
BEST = "best"
"""Stands in a plan for the three methods that are attacked until main has chosen them."""
CURVES = Sizes(name=24, near=8)
SWEEPS = Sizes(name=24, near=24, other=1)
SLOW = ("esd:newest", "esd:published", "concept_ablation:published")
"""They take minutes: one concept and one seed."""
ATTACKS = ("inversion 1", "inversion 4", "soft prompt", "pass-through", "words")


@dataclass(frozen=True)
class Job:
    """One row of the results; all fields together are its key."""

    stage: str
    concept: str
    method: str
    seed: int
    strength: float = 1.0
    detail: str = ""
    """Of an attack its name, of a stack its mode and height."""

    def as_dict(self) -> dict[str, Any]:
        """For a row."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """Which jobs; the defaults are the full run."""

    concepts: tuple[str, ...] = TEST
    methods: tuple[str, ...] = (*METHODS, *REFITTED)
    seeds: tuple[int, ...] = SEEDS
    sizes: Sizes = FULL
    strengths: tuple[float, ...] = (-1.0, -0.5, 0.5, 0.75, 1.25, 1.5)
    curve_methods: tuple[str, ...] = ("quick", "balanced")
    curve_sizes: Sizes = CURVES
    """A prefix of main's pictures, so that strengths 0 and 1 need not be drawn again."""
    sweep_sizes: Sizes = SWEEPS
    stack_method: str = "quick"
    stacked: tuple[str, ...] = TEST
    heights: tuple[int, ...] = (1, 2, 5, 10)
    attacked: tuple[str, ...] = ATTACKED
    attack_methods: tuple[str, ...] = (BEST,)
    attacks: tuple[str, ...] = ATTACKS
    controls: tuple[str, ...] = CONTROLS
    quick_attacks: bool = False
    sweep_concepts: tuple[str, ...] = ("dog", "truck", "sketch")
    sweep_methods: tuple[str, ...] | None = None
    """None: all that `sweep_names` knows, with two of ours to compare."""
    kind: Kind | None = None
    """What the methods are told that the concepts are; None: objects or styles, as they are."""

    def sizes_of(self, stage: str) -> Sizes:
        """How many pictures a job of this stage draws."""
        return {"curves": self.curve_sizes, "sweeps": self.sweep_sizes}.get(stage, self.sizes)

    def jobs(self, stages: tuple[str, ...], best: tuple[str, ...] = (BEST,)) -> list[Job]:
        """All jobs of these stages in order; `best` are the methods that main has chosen."""
        makers = {
            "main": self._main,
            "curves": self._curves,
            "stacking": self._stacking,
            "attacks": lambda: self._attacks(best),
            "sweeps": self._sweeps,
        }
        return [job for stage in STAGES if stage in stages for job in makers[stage]()]

    def _main(self) -> Iterator[Job]:
        for seed in self.seeds:
            for method in (BASE, *(name for name in self.methods if name != BASE)):
                for concept in self.concepts:
                    yield Job("main", concept, method, seed)

    def _curves(self) -> Iterator[Job]:
        for seed in self.seeds:
            for method in self.curve_methods:
                for concept in self.concepts:
                    for strength in self.strengths:
                        yield Job("curves", concept, method, seed, strength)

    def _stacking(self) -> Iterator[Job]:
        for seed in self.seeds:
            yield Job("stacking", "", BASE, seed, detail="stacked 0")
            for height in self.heights:
                for mode in MODES:
                    yield Job("stacking", "", self.stack_method, seed, detail=f"{mode} {height}")

    def _attacks(self, best: tuple[str, ...]) -> Iterator[Job]:
        methods = [
            name for word in self.attack_methods for name in (best if word == BEST else (word,))
        ]
        seed = self.seeds[0]
        for concept in self.attacked:
            for method in (BASE, *methods):
                for attack in self.attacks:
                    yield Job("attacks", concept, method, seed, detail=attack)
        for control in self.controls:
            for attack in self.attacks:
                if attack != "words":
                    yield Job("attacks", control, BASE, seed, detail=attack)

    def _sweeps(self) -> Iterator[Job]:
        methods = self.sweep_methods
        if methods is None:
            swept = [name for rival in RIVALS for name in sweep_names(rival)]
            methods = (BASE, *OURS[:2], *swept)
        for seed in self.seeds:
            for method in methods:
                for concept in self.sweep_concepts:
                    first = seed == self.seeds[0] and concept == self.sweep_concepts[0]
                    if first or method not in SLOW:
                        yield Job("sweeps", concept, method, seed)


FULL_PLAN = Plan()
QUICK_PLAN = Plan(
    concepts=("cat", "neon"),
    methods=(BASE, "quick", "balanced", "uce", "few_shot_erasing", "negative_prompt"),
    seeds=(0,),
    sizes=QUICK,
    strengths=(-1.0, 0.5, 1.5),
    curve_methods=("quick",),
    curve_sizes=Sizes(name=16, near=8),
    stacked=("cat", "neon"),
    heights=(2,),
    attacked=("cat",),
    attack_methods=("quick",),
    attacks=("inversion 1", "soft prompt"),
    controls=(),
    quick_attacks=True,
    sweep_concepts=(),
    sweep_methods=(),
)
SWEEP_CELLS = ("name", "grammars", "synonyms", "near", "others")


def job_pictures(plan: Plan, job: Job, world_objects: dict[str, dict], styles: Any) -> int:
    """Pictures that the judge reads in one job; the words attack, which depends on the model, not.

    A method's own pictures (stand-ins, anchors) are not in it.
    """
    is_style = job.concept in styles
    objects = len(world_objects) - (not is_style)
    sizes = plan.sizes_of(job.stage)
    named = sizes.name * (1 + bool(world_objects.get(job.concept, {}).get("synonyms")))
    near, others = 3 * sizes.near, sizes.other * objects
    if job.stage == "main":
        return named + sizes.name + near + others + (0 if is_style else 12 * sizes.pair)
    if job.stage == "curves":
        return sizes.name + near
    if job.stage == "sweeps":
        return named + sizes.name + near + others
    if job.stage == "stacking":
        rest = [word for word in world_objects if word not in plan.stacked]
        return sizes.name * int(job.detail.split()[1]) + sizes.other * len(rest)
    return attack_pictures_read(job.detail, plan.quick_attacks)


def attack_pictures_read(attack: str, quick: bool) -> int:
    """Pictures that the judge reads in one attack by vectors; 0 for words."""
    if attack == "words":
        return 0
    settings = settings_for(attack, quick)
    restarts = len(settings.starts) if attack.startswith("inversion") else settings.restarts
    return restarts * len(settings.recorded) * 2 * settings.pictures
