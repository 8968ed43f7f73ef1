"""Does jobs: erases, draws, lets the judge read, and gives back the row."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.attacks.pictures import COUNT as ATTACK_COUNT
from bench.attacks.pictures import attack_pictures
from bench.jobs.attack_jobs import run_attack
from bench.jobs.plan import SWEEP_CELLS, Job, Plan
from bench.jobs.rows import Row
from bench.jobs.strips import save_strip
from bench.methods.find import BASE, find_method, settings_of
from bench.methods.preset import with_lora
from bench.methods.stacking import joint, stack, stack_cells
from bench.protocol.cells import DRAW_STEPS, World
from bench.protocol.cost import measured
from bench.protocol.drift import drawn_drift, text_drift
from bench.protocol.erased import Erased, Task
from bench.protocol.layout import Layout, draw
from bench.protocol.setup import ModelChoice
from bench.protocol.splits import kept_words
from bench.protocol.task_pictures import COUNT, DRAWN_SEED, Pictures, drawn_pictures, task_pictures
from unlearn_core.errors import Cancelled, UnlearnError
from unlearn_core.loaders.demo_model import DEMOS
from unlearn_core.lora.file import load_lora, save_lora
from unlearn_core.lora.weights import LoraWeights


@dataclass
class Runner:
    """A model, a judge and a folder, and the jobs that can be done with them."""

    base: Erased
    world: World
    plan: Plan
    out: Path
    pictures: Pictures
    """What a method may learn from."""
    attack_pictures: Pictures
    steps: int = DRAW_STEPS

    def __post_init__(self) -> None:
        """Nothing is kept from an earlier run."""
        self._last: tuple[tuple[str, str, int], Erased] | None = None

    def run(self, job: Job) -> Row:
        """The job's row. What a method can't do is a row too, with its reason in `failed`."""
        started = time.monotonic()
        row: Row = job.as_dict()
        kinds: dict[str, Callable[[Job], Row]] = {
            "main": self._main,
            "sweeps": self._main,
            "curves": self._curve,
            "stacking": self._stack,
            "attacks": self._attack,
        }
        try:
            row |= kinds[job.stage](job)
        except Cancelled:
            raise
        except UnlearnError as error:
            row["failed"] = f"{type(error).__name__}: {error}"
        return row | {"job_seconds": round(time.monotonic() - started, 1)}

    def task(self, name: str, seed: int) -> Task:
        """What a method is told. No synonym is in it."""
        own = self.kind(name)
        alike = self.world.styles if own == "style" else self.world.objects
        return Task(name, self.plan.kind or own, self.pictures(name), seed, kept_words(alike, name))

    def kind(self, name: str) -> Literal["object", "style"]:
        """What a concept is."""
        return "style" if name in self.world.styles else "object"

    def erase(self, name: str, method: str, seed: int) -> Erased:
        """The erased model, its cost measured; a LoRA is kept in OUT/loras."""
        if method == BASE:
            return self.base
        key = (name, method, seed)
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        self._last = None  # before another model is made, not after
        task, call = self.task(name, seed), find_method(method)
        erased, cost = measured(lambda: call(self.base, task), self.base.model.device)
        notes = {**erased.notes, "peak bytes": str(cost.peak_bytes)}
        erased = dataclasses.replace(erased, seconds=cost.seconds, notes=notes)
        if erased.lora is not None:
            path = self._lora_path(*key)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_lora(erased.lora, path)
        self._last = key, erased
        return erased

    def _lora_path(self, name: str, method: str, seed: int) -> Path:
        parts = (method.replace(":", "-"), name.replace(" ", "-"), str(seed))
        return self.out / "loras" / f"{'-'.join(parts)}.safetensors"

    def lora(self, name: str, method: str, seed: int) -> LoraWeights:
        """The LoRA of an earlier job, or of a new run."""
        path = self._lora_path(name, method, seed)
        if not path.exists():
            self.erase(name, method, seed)
        return load_lora(path)

    def _main(self, job: Job) -> Row:
        erased = self.erase(job.concept, job.method, job.seed)
        layout = self._layout(job)
        only = SWEEP_CELLS if job.stage == "sweeps" else None
        samples = {} if job.stage == "main" and job.seed == self.plan.seeds[0] else None
        row: Row = {
            "kind": layout.own,
            "cells": layout.measure(erased, only, self.steps, samples),
            "words": layout.words,
        }
        if samples:
            row["strip"] = save_strip(self.out, job, layout, samples)
        if job.method == BASE:
            return row
        notes = dict(erased.notes)
        return row | {
            "family": erased.family,
            "drift": text_drift(erased.encoder, self.base.encoder),
            "drawn_drift": drawn_drift(erased, self.base, self.pictures(job.concept)),
            "seconds": erased.seconds,
            "peak_bytes": int(notes.pop("peak bytes")),
            "file_bytes": erased.file_bytes,
            "notes": notes,
            "settings": settings_of(job.method),
        }

    def _curve(self, job: Job) -> Row:
        lora = self.lora(job.concept, job.method, job.seed)
        erased = with_lora(self.base, lora, job.strength)
        layout = self._layout(job)
        return {"kind": layout.own, "cells": layout.measure(erased, ("name", "near"), self.steps)}

    def _layout(self, job: Job) -> Layout:
        sizes = self.plan.sizes_of(job.stage)
        return Layout(self.world, self.base.encoder, job.concept, job.seed, sizes)

    def _stack(self, job: Job) -> Row:
        mode, _, height = job.detail.partition(" ")
        gone: Sequence[str] = self.plan.stacked[: int(height)]
        if mode == "joint":
            erased = joint(self.base, [self.task(name, job.seed) for name in gone], job.method)
        else:
            loras = [self.lora(name, job.method, job.seed) for name in gone]
            erased = stack(self.base, loras)
        cells = stack_cells(self.world, gone, self.plan.stacked, job.seed, self.plan.sizes)
        return {
            "cells": {
                name: self.world.agreement(cell, draw(erased, cell, self.steps))
                for name, cell in cells.items()
            },
            "gone": {name: self.kind(name) for name in gone},
            "file_bytes": erased.file_bytes,
            "drift": text_drift(erased.encoder, self.base.encoder),
        }

    def _attack(self, job: Job) -> Row:
        erased = self.erase(job.concept, job.method, job.seed)
        curve = run_attack(
            job.detail,
            erased,
            job.concept,
            self.attack_pictures(job.concept),
            job.seed,
            self.world,
            self.plan.quick_attacks,
        )
        values = curve.as_dict()
        for restart in values["restarts"]:
            restart["losses"] = [round(loss, 4) for loss in restart["losses"]]
        return {"curve": values}


def make_runner(base: Erased, world: World, plan: Plan, out: Path, choice: ModelChoice) -> Runner:
    """A runner with the demo's pictures, or with what another model draws itself."""
    if choice.name in DEMOS:
        return Runner(base, world, plan, out, task_pictures, attack_pictures, choice.steps)
    given, held_back = (
        drawn_pictures(base, world.styles, seed, count)
        for seed, count in ((DRAWN_SEED, COUNT), (DRAWN_SEED + 1, ATTACK_COUNT))
    )
    return Runner(base, world, plan, out, given, held_back, choice.steps)
