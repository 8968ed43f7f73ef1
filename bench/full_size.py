"""Seconds and megabytes at the size of Stable Diffusion 2, on random weights.

    python -m bench.full_size [--preset quick] [--json FILE] [--plot FILE]

The text encoder of SD2 (24 layers, 1024 wide) is made with random weights: speed and memory do not
depend on their values, and nothing about quality can be learned from them. The preset's stages run
on it as they are, twice: first their matrix products are counted, by the dtype that they multiply
in, then they are timed. This machine's rate in products of each dtype is measured in the same run,
so that the ratio says how much is lost. Seconds of the processor are counted too, over all threads:
on a machine that others use, only these say something (set OMP_WAIT_POLICY=passive, so that none is
spent waiting).
Presets that need the UNet are not run: see `text_only`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cost import PeakSampler
from bench.machine import Machine, measure_machine
from bench.methods import find_method, settings_of
from bench.products import ProductCounter
from unlearn_core.concept import Concept
from unlearn_core.errors import BadSettings, UnlearnError
from unlearn_core.free_memory import give_memory_back
from unlearn_core.lent_model import LentModel, Prediction, SilentMonitor
from unlearn_core.lora_file import lora_bytes
from unlearn_core.model_files import TEXT_PREFIX, read_json
from unlearn_core.pipeline_folder import empty_parts
from unlearn_core.settings import UnlearnSettings
from unlearn_core.single_file import CONFIGS_FOLDER
from unlearn_core.unlearn import joint_settings
from unlearn_core.unlearn_run import UnlearnRun

LAYERS = 24


class RandomTextModel(LentModel):
    """A host's SD2 of which only the text encoder is there."""

    prediction: Prediction = "epsilon"
    native_size = 512

    def __init__(self, dtype: torch.dtype = torch.float16, layers: int = LAYERS) -> None:
        """Draw the weights of a tower, the last of whose layers is left unused."""
        self.last_used_layer = layers - 2
        self.device, self.compute_dtype = torch.device("cpu"), dtype
        self.alphas_cumprod = torch.linspace(0.999, 0.005, 1000)
        configs = [
            read_json(CONFIGS_FOLDER / f"{part}.json") for part in ("unet", "vae", "text_encoder")
        ]
        configs[2] = {**configs[2], "num_hidden_layers": layers}
        _, _, text_encoder = empty_parts(*configs)
        generator = torch.Generator().manual_seed(0)
        self._weights = {}
        for name, value in text_encoder.state_dict().items():
            if "position_ids" in name:
                continue
            weight = torch.randn(value.shape, generator=generator).mul_(0.02)
            if name.endswith(("norm1.weight", "norm2.weight", "layer_norm.weight")):
                weight += 1
            full = name if name.startswith(TEXT_PREFIX) else TEXT_PREFIX + name
            self._weights[full] = weight.to(dtype)

    def text_encoder_weights(self) -> dict[str, Tensor]:
        """See LentModel."""
        return dict(self._weights)


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
    """Most resident memory beyond what the process held before the run."""

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
    """A run whose stages are counted; what lies between stages is counted with the next one."""

    def __init__(
        self,
        model: LentModel,
        concepts: Sequence[Concept],
        settings: UnlearnSettings,
        counts: bool,
    ) -> None:
        """See `unlearn_together`; counting the products takes time of its own."""
        give_memory_back()
        self.counts = counts
        self.held = PeakSampler().resident()
        self._stages: dict[str, Stage] = {}
        super().__init__(model, concepts, settings, SilentMonitor())

    @property
    def stages(self) -> list[Stage]:
        """In order; the stages that come again for another concept are added up."""
        return list(self._stages.values())

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Measures seconds, products and memory."""
        sampler, counter = PeakSampler(), ProductCounter()
        sampler.start()
        started = time.perf_counter(), time.process_time()
        try:
            with counter if self.counts else nullcontext(), super().stage(stage):
                yield
        finally:
            seconds = time.perf_counter() - started[0]
            processor = time.process_time() - started[1]
            sampler.stop()
        copied = 0
        if stage == "copying the text encoder":
            copied = sum(p.numel() * p.element_size() for p in self.encoder.model.parameters())
        extra = max(0, sampler.peak - self.held)
        found = Stage(stage, seconds, processor, dict(counter.flops), copied, extra)
        before = self._stages.get(stage)
        self._stages[stage] = before + found if before else found


def text_only(settings: UnlearnSettings) -> bool:
    """Whether a run with these settings never asks for the UNet."""
    without_pictures = not settings.use_pictures or settings.inversion_steps == 0
    return without_pictures and settings.stand_in_pictures == 0 and not settings.needs_unet


def measure(method: str, concept: str, dtype: torch.dtype, layers: int = LAYERS) -> dict[str, Any]:
    """Run a preset, on several concepts with commas; its numbers, as they go into the JSON.

    Raises BadSettings.
    """
    find_method(method)
    concepts = [Concept(name) for name in concept.split(",")]
    settings = joint_settings(UnlearnSettings.from_dict(settings_of(method)), len(concepts))
    if not text_only(settings):
        raise BadSettings(
            f"{method} draws or learns with the UNet, which this bench does not have. Add "
            "use_pictures=False and stand_in_pictures=0 to see what the rest of it costs."
        )
    model = RandomTextModel(dtype, layers)
    machine = measure_machine()
    counted = MeasuredRun(model, concepts, settings, counts=True)
    counted.go()
    flops = {stage.name: stage.flops for stage in counted.stages}
    del counted
    started = time.perf_counter(), time.process_time()
    run = MeasuredRun(model, concepts, settings, counts=False)
    lora, _ = run.go()
    seconds = time.perf_counter() - started[0]
    processor = time.process_time() - started[1]
    between = seconds - sum(stage.seconds for stage in run.stages)
    between_processor = processor - sum(stage.processor_seconds for stage in run.stages)
    last = Stage("metadata and rounding", between, between_processor, {}, 0, 0)
    stages = [
        replace(stage, flops=flops.get(stage.name, {})).as_dict(machine)
        for stage in (*run.stages, last)
    ]

    def total(key: str) -> float:
        return sum(stage[key] for stage in stages)

    return {
        "method": method,
        "concept": concept,
        "dtype of the lent weights": str(dtype).removeprefix("torch."),
        "dtype of most products": str(run.encoder.products).removeprefix("torch."),
        "seconds": seconds,
        "floor_seconds": total("floor_seconds"),
        "ratio": seconds / total("floor_seconds"),
        "processor_seconds": processor,
        "processor_floor_seconds": total("processor_floor_seconds"),
        "processor_ratio": processor / total("processor_floor_seconds"),
        "extra_bytes": max(stage["extra_bytes"] for stage in stages),
        "file_bytes": len(lora_bytes(lora)),
        "machine": asdict(machine),
        "stages": stages,
    }


def as_text(numbers: dict[str, Any]) -> str:
    """The table that is printed."""
    machine = numbers["machine"]
    rates = [
        f"{rate / 1e9:.0f} GFLOP/s in {dtype}"
        for dtype, rate in machine["wall"]["products"].items()
    ]
    lines = [
        f"{numbers['method']}, {numbers['concept']}; {machine['threads']} threads, "
        f"{', '.join(rates)}, {machine['wall']['copied'] / 1e9:.1f} GB/s copied; lent in "
        f"{numbers['dtype of the lent weights']}, most products in "
        f"{numbers['dtype of most products']}",
        f"{'':28}{'':8}{'floor':>8}{'':>7}{'CPU':>8}{'CPU':>7}{'TFLOP in':>18}{'extra':>8}",
        f"{'stage':28}{'s':>8}{'s':>8}{'ratio':>7}{'s':>8}{'ratio':>7}"
        f"{'float32':>9}{'bf16':>9}{'MB':>8}",
    ]
    shown = ("float32", "bfloat16")
    flops = {
        dtype: sum(stage["flops"].get(dtype, 0) for stage in numbers["stages"]) for dtype in shown
    }
    for row in [*numbers["stages"], numbers | {"name": "all", "flops": flops}]:
        cells = [
            _ratio(row["seconds"], row["floor_seconds"]),
            f"{row['processor_seconds']:8.1f}",
            _ratio(row["processor_seconds"], row["processor_floor_seconds"]),
        ]
        counts = "".join(f"{row['flops'].get(dtype, 0) / 1e12:9.2f}" for dtype in shown)
        lines.append(
            f"{row['name']:28}{row['seconds']:8.1f}{row['floor_seconds']:8.1f}"
            f"{''.join(cells)}{counts}{row['extra_bytes'] / 1e6:8.0f}"
        )
    return "\n".join(lines)


def _ratio(seconds: float, floor: float) -> str:
    return f"{seconds / floor:7.1f}" if floor > 0.05 else f"{'-':>7}"


def save_plot(numbers: dict[str, Any], path: Path) -> None:
    """Seconds of each stage beside their floor."""
    from bench.plots import bars_beside, save

    stages = numbers["stages"]
    figure = bars_beside(
        [stage["name"] for stage in stages],
        {
            "measured": [stage["seconds"] for stage in stages],
            "floor": [stage["floor_seconds"] for stage in stages],
        },
        "seconds",
    )
    save(figure, path)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.full_size",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="quick", help="Or quick:steps=12+layers=last:2.")
    parser.add_argument("--concept", default="dog", help="One, or several: dog,cat,bus")
    parser.add_argument("--lent", choices=("float16", "float32"), default="float16")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    try:
        numbers = measure(args.preset, args.concept, getattr(torch, args.lent))
    except UnlearnError as error:
        sys.exit(f"{error}")
    print(as_text(numbers))
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1) + "\n")
    if args.plot:
        save_plot(numbers, args.plot)


if __name__ == "__main__":
    main()
