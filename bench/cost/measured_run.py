"""A run of the engine whose stages are measured: seconds, matrix products, memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from bench.cost.machine import Machine
from bench.cost.products import ProductCounter
from bench.protocol.cost import MemoryGauge, wait_for
from unlearn_core.concept import Concept
from unlearn_core.forgetting.memory_plan import MemoryReport
from unlearn_core.forgetting.run import UnlearnRun
from unlearn_core.lora.weights import LoraWeights
from unlearn_core.models.lent_model import LentModel
from unlearn_core.progress import SilentMonitor
from unlearn_core.settings import UnlearnSettings

BETWEEN = "between the stages"
"""What belongs to none: the metadata and the rounding above all."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run."""

    name: str
    seconds: float
    processor_seconds: float
    """All threads added up."""
    flops: dict[str, int]
    """Of its matrix products, by their dtype."""
    copied_bytes: int
    """Read from the host's weights, for the copy of the text encoder."""
    extra_bytes: int
    """Most memory beyond what was held before the run, since the stage before: resident bytes of
    the process, or on a CUDA device what torch allocated."""

    def __add__(self, other: Stage) -> Stage:
        return Stage(
            self.name,
            self.seconds + other.seconds,
            self.processor_seconds + other.processor_seconds,
            dict(Counter(self.flops) + Counter(other.flops)),
            self.copied_bytes + other.copied_bytes,
            max(self.extra_bytes, other.extra_bytes),
        )

    def floors(self, machine: Machine) -> tuple[float, float]:
        """Seconds that its products and copies take at the machine's rates, by both clocks."""
        wall, processor = (
            rates.seconds(self.flops, self.copied_bytes)
            for rates in (machine.wall, machine.processor)
        )
        return wall, processor

    def as_dict(self, machine: Machine) -> dict[str, Any]:
        """For the JSON."""
        floor, processor_floor = self.floors(machine)
        floors = {"floor_seconds": floor, "processor_floor_seconds": processor_floor}
        return asdict(self) | floors


class MeasuredRun(UnlearnRun):
    """A run whose stages are measured; memory held between stages counts for the next one."""

    def __init__(
        self,
        model: LentModel,
        concepts: Sequence[Concept],
        settings: UnlearnSettings,
        counter: ProductCounter | None = None,
    ) -> None:
        """See `unlearn_together`; a counter, inside of which all runs, takes time of its own."""
        self._device, self._counter = model.device, counter
        self._stages: dict[str, Stage] = {}
        self._gauge = MemoryGauge(model.device)
        self._started = self._clocks()
        with ExitStack() as if_refused:
            if_refused.callback(self._gauge.close)
            super().__init__(model, concepts, settings, SilentMonitor())
            if_refused.pop_all()

    def go(self) -> tuple[LoraWeights, tuple[float, ...]]:
        """See UnlearnRun; what belongs to no stage becomes the last one."""
        try:
            result = super().go()
            wall, processor = self._clocks()
            rest = Stage(
                BETWEEN,
                wall - self._started[0] - sum(stage.seconds for stage in self.stages),
                processor
                - self._started[1]
                - sum(stage.processor_seconds for stage in self.stages),
                dict(self._flops() - sum((Counter(s.flops) for s in self.stages), Counter())),
                0,
                self._gauge.look(),
            )
        finally:
            self._gauge.close()
        self._stages[BETWEEN] = rest
        return result

    @property
    def stages(self) -> list[Stage]:
        """In order; the stages that come again for another concept are added up."""
        return list(self._stages.values())

    @property
    def memory_report(self) -> MemoryReport:
        """What was estimated beside what was used, on a CPU too."""
        return MemoryReport(self.memory, max(stage.extra_bytes for stage in self.stages))

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Measures seconds, products and memory."""
        flops, started = self._flops(), self._clocks()
        with super().stage(stage):
            yield
        ended = self._clocks()
        copied = 0
        if stage == "copying the text encoder":
            copied = sum(
                p.numel() * p.element_size()
                for tower in self.encoder.towers
                for p in tower.model.parameters()
            )
        found = Stage(
            stage,
            ended[0] - started[0],
            ended[1] - started[1],
            dict(self._flops() - flops),
            copied,
            self._gauge.look(),
        )
        before = self._stages.get(stage)
        self._stages[stage] = before + found if before else found

    def _clocks(self) -> tuple[float, float]:
        """Of the wall and of the processor, once the device is done."""
        wait_for(self._device)
        return time.perf_counter(), time.process_time()

    def _flops(self) -> Counter[str]:
        return Counter(self._counter.flops) if self._counter else Counter()
