"""Seconds and bytes at the size of Stable Diffusion 2, on random weights.

    python -m bench full-size [--preset quick] [--json FILE] [--plot FILE]
    python -m bench full-size --preset balanced:inversion_steps=2+steps=5 --size 768 --memory-cap 8

SD2 is made with random weights: the text encoder (24 layers, 1024 wide) and, for presets that use
them, the UNet (866 M weights) and the VAE (84 M); speed and memory do not depend on their values,
and nothing about quality can be learned from them. The concept's pictures are noise too. The
preset's stages run as they are, twice: first their matrix products and convolutions are counted, by
the dtype that they multiply in, then they are timed. This machine's rate in products of each dtype
is measured in the same run, so that the ratio says how much is lost. Seconds of the processor are
counted too, over all threads: on a machine that others use, only these say something (set
OMP_WAIT_POLICY=passive, so that none is spent waiting).
A step through the UNet at 512 pixels takes about a minute on two CPU cores: give fewer steps there,
or a smaller --size. On a CUDA device the UNet's weights are of the dtype that it computes in, as
this pack's loader puts them there; on a CPU they are float32. With --memory-cap the allocator
refuses more than so many GB in all, weights too, and the run plans as on a card that has no more.
What is held beside the weights stands beside the UNet's bytes: less than these is no second UNet.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bench.cost.machine import device_name, measure_machine
from bench.cost.measured_run import MeasuredRun
from bench.cost.products import ProductCounter
from bench.cost.random_model import Host, RandomModel, RandomTextModel, random_pictures
from bench.methods.find import find_method, settings_of
from unlearn_core.concept import Concept
from unlearn_core.forgetting.memory_plan import gigabytes
from unlearn_core.forgetting.unlearn import joint_settings
from unlearn_core.lora.file import lora_bytes
from unlearn_core.models.families import FAMILIES, SD2
from unlearn_core.settings import UnlearnSettings

PICTURES = 5
"""Of each concept."""
_ALWAYS_SHOWN = ("float32", "bfloat16")
_SHORT = {"bfloat16": "bf16"}


def text_only(settings: UnlearnSettings, device: torch.device) -> bool:
    """Whether a run with these settings at full size never asks for the UNet."""
    draws = settings.needs_unet or (settings.stand_in_pictures > 0 and device.type != "cpu")
    return not (settings.uses_pictures or draws)


def measure(method: str, concept: str, host: Host) -> dict[str, Any]:
    """Run a preset, on several concepts with commas; its numbers, as they go into the JSON.

    Raises BadSettings.
    """
    find_method(method)
    host.check()
    names = concept.split(",")
    settings = joint_settings(UnlearnSettings.from_dict(settings_of(method)), len(names))
    shown = PICTURES if settings.uses_pictures else 0
    concepts = [
        Concept(name, images=random_pictures(host.size, shown, seed))
        for seed, name in enumerate(names)
    ]
    machine = measure_machine(host.device)
    with capped(host):
        whole = None if text_only(settings, host.device) else RandomModel(host)
        model = whole or RandomTextModel(host)
        counter = ProductCounter()
        with counter:
            counted = MeasuredRun(model, concepts, settings, counter)
            counted.go()
        flops = {stage.name: stage.flops for stage in counted.stages}
        del counted
        run = MeasuredRun(model, concepts, settings)
        lora, _ = run.go()
    stages = [replace(s, flops=flops.get(s.name, {})).as_dict(machine) for s in run.stages]
    report = run.memory_report
    return {
        "method": method,
        "concept": concept,
        "family": host.family.key,
        "size": host.size,
        "prediction": host.prediction,
        "device": device_name(host.device),
        "torch": torch.__version__,
        "memory_cap": host.memory_cap,
        "dtype of the lent weights": _plain(host.text_dtype),
        "dtype of most products": _plain(run.encoder.towers[0].products),
        "dtype of the UNet's products": _plain(host.compute_dtype) if whole else None,
        **_totals(stages),
        "extra_bytes": max(stage["extra_bytes"] for stage in stages),
        "unet_bytes": whole.unet_bytes if whole else None,
        "memory_report": asdict(report) | {"in_words": report.in_words()},
        "file_bytes": len(lora_bytes(lora)),
        "machine": asdict(machine),
        "stages": stages,
    }


def _totals(stages: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds of all stages, their floor and the ratio, by the wall's and the processor's clock."""
    found: dict[str, float] = {}
    for clock in ("", "processor_"):
        seconds, floor = (
            float(sum(stage[f"{clock}{name}"] for stage in stages))
            for name in ("seconds", "floor_seconds")
        )
        found |= {
            f"{clock}seconds": seconds,
            f"{clock}floor_seconds": floor,
            f"{clock}ratio": seconds / floor,
        }
    return found


@contextmanager
def capped(host: Host) -> Iterator[None]:
    """Inside, torch's allocator refuses more than the host's cap; other processes don't count."""
    if host.memory_cap is None:
        yield
        return
    has = torch.cuda.get_device_properties(host.device).total_memory
    torch.cuda.set_per_process_memory_fraction(host.memory_cap / has, host.device.index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, host.device.index)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def as_text(numbers: dict[str, Any]) -> str:
    """The table that is printed."""
    machine = numbers["machine"]
    counts = sum((Counter(stage["flops"]) for stage in numbers["stages"]), Counter[str]())
    shown = [
        dtype for dtype in machine["wall"]["products"] if counts[dtype] or dtype in _ALWAYS_SHOWN
    ]
    rates = [
        f"{rate / 1e9:.0f} GFLOP/s in {dtype}"
        for dtype, rate in machine["wall"]["products"].items()
    ]
    lines = [
        f"{numbers['method']}, {numbers['concept']}, {numbers['size']} pixels; torch "
        f"{numbers['torch']} on {numbers['device']}, {machine['threads']} threads, "
        f"{', '.join(rates)}, {machine['wall']['copied'] / 1e9:.1f} GB/s copied; lent in "
        f"{numbers['dtype of the lent weights']}, most products in "
        f"{numbers['dtype of most products']}",
        f"{'':28}{'':8}{'floor':>8}{'':>7}{'CPU':>8}{'CPU':>7}{'TFLOP in':>{9 * len(shown)}}"
        f"{'extra':>8}",
        f"{'stage':28}{'s':>8}{'s':>8}{'ratio':>7}{'s':>8}{'ratio':>7}"
        f"{''.join(f'{_SHORT.get(dtype, dtype):>9}' for dtype in shown)}{'MB':>8}",
    ]
    for row in [*numbers["stages"], numbers | {"name": "all", "flops": counts}]:
        cells = [
            _ratio(row["seconds"], row["floor_seconds"]),
            f"{row['processor_seconds']:8.1f}",
            _ratio(row["processor_seconds"], row["processor_floor_seconds"]),
        ]
        products = "".join(f"{row['flops'].get(dtype, 0) / 1e12:9.2f}" for dtype in shown)
        lines.append(
            f"{row['name']:28}{row['seconds']:8.1f}{row['floor_seconds']:8.1f}"
            f"{''.join(cells)}{products}{row['extra_bytes'] / 1e6:8.0f}"
        )
    lines.append(f"memory: {numbers['memory_report']['in_words']}")
    if numbers["memory_cap"] is not None:
        lines.append(f"torch was refused more than {gigabytes(numbers['memory_cap'])} in all")
    if numbers["unet_bytes"] is not None:
        extra, unet = numbers["extra_bytes"], numbers["unet_bytes"]
        lines.append(
            f"extra / UNet bytes: {gigabytes(extra)} / {gigabytes(unet)} = {extra / unet:.2f}"
        )
    return "\n".join(lines)


def _ratio(seconds: float, floor: float) -> str:
    return f"{seconds / floor:7.1f}" if floor > 0.05 else f"{'-':>7}"


def save_plot(numbers: dict[str, Any], path: Path) -> None:
    """Seconds of each stage beside their floor."""
    from bench.report.plots import bars_beside, save

    stages = numbers["stages"]
    shown = {"measured": "seconds", "floor": "floor_seconds"}
    bars = {name: [stage[key] for stage in stages] for name, key in shown.items()}
    figure = bars_beside([stage["name"] for stage in stages], bars, "seconds")
    save(figure, path)


def main(words: Sequence[str]) -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench full-size",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="quick", help="Or quick:steps=12+layers=last:2.")
    parser.add_argument("--concept", default="dog", help="Or several: dog,cat,bus")
    families = {family.key: family for family in FAMILIES}
    parser.add_argument("--family", choices=families, default=SD2.key)
    parser.add_argument("--size", type=int, help="512, on SD2 also 768; 1024 on SDXL.")
    parser.add_argument(
        "--lent", choices=("float16", "float32"), default="float16", help="Text encoder's weights."
    )
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=found)
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="What the UNet computes in; without it the fastest that is precise enough.",
    )
    parser.add_argument(
        "--memory-cap", type=float, metavar="GB", help="The most that torch may hold (CUDA only)."
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args(words)
    family = families[args.family]
    host = Host(
        torch.device(args.device),
        args.size or family.native_size(None, "epsilon"),
        getattr(torch, args.lent),
        getattr(torch, args.dtype) if args.dtype else None,
        args.memory_cap and int(args.memory_cap * 1e9),
        family=family,
    )
    try:
        numbers = measure(args.preset, args.concept, host)
    except torch.cuda.OutOfMemoryError as error:
        sys.exit(f"Out of memory: {error}")
    print(as_text(numbers))
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1) + "\n", "utf-8")
    if args.plot:
        save_plot(numbers, args.plot)
