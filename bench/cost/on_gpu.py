"""What a CUDA device has to show: the engine's tests, seconds against their aims, and a profile.

    python -m bench gpu --out FOLDER

At SD2's size, on random weights and 512 pixels, as `full_size` does: `quick`, `balanced` and
`paper`, each counted and then timed. FOLDER gets a JSON file a preset, aims.md, profile.txt with
the operations that take most of the device's time in a few steps of `balanced`, and tests.txt.
About 8 minutes; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import install
from bench.cost import full_size
from bench.cost.measured_run import MeasuredRun
from bench.cost.random_model import Host, RandomModel, random_pictures
from bench.methods.find import settings_of
from bench.report.tables import markdown
from unlearn_core.concept import Concept
from unlearn_core.settings import UnlearnSettings

AIMS: Mapping[str, tuple[float, float]] = {
    "quick": (2.0, float("inf")),
    "balanced": (15.0, 3.0),
    "paper": (15.0, float("inf")),
}
"""Preset -> most seconds, most times its floor."""
PROFILED = "balanced:inversion_steps=10+steps=10"
CONCEPT = "dog"
MOST_SECONDS_OF_TESTS = 240
ROWS = 40
"""Operations in the profile."""


def aims_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: each preset's seconds and ratio against its aims."""
    lines = []
    for name, (most_seconds, most_ratio) in AIMS.items():
        seconds, floor = found[name]["seconds"], found[name]["floor_seconds"]
        is_met = seconds <= most_seconds and seconds <= most_ratio * floor
        lines.append(
            (
                f"`{name}`",
                f"{seconds:.1f} s (≤ {most_seconds:g})",
                f"{floor:.2f} s",
                f"{seconds / floor:.1f} (≤ {most_ratio:g})",
                "met" if is_met else "**missed**",
            )
        )
    return markdown(("preset", "measured", "floor", "times its floor", ""), lines)


def profiled(method: str, host: Host) -> str:
    """The operations that take most of the device's time, as torch.profiler's table."""
    model = RandomModel(host)
    concept = Concept(CONCEPT, images=random_pictures(host.size, full_size.PICTURES, 0))
    settings = UnlearnSettings.from_dict(settings_of(method))
    on_cuda = host.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as profiler:
        MeasuredRun(model, [concept], settings).go()
    order = f"self_{host.device.type}_time_total"
    return str(profiler.key_averages().table(sort_by=order, row_limit=ROWS))


def engine_tests() -> str:
    """What pytest says of the engine's tests, or that they took too long."""
    words = [sys.executable, "-m", "pytest", *install.IN_PARALLEL, *install.ENGINE]
    try:
        done = subprocess.run(
            words,
            cwd=Path(install.__file__).parent,
            capture_output=True,
            encoding="utf-8",
            timeout=MOST_SECONDS_OF_TESTS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not ended after {MOST_SECONDS_OF_TESTS} s\n"
    return done.stdout + done.stderr


def main(words: Sequence[str]) -> None:
    """Measure, profile and test; raises BadSettings without a CUDA device."""
    parser = argparse.ArgumentParser(
        prog="python -m bench gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args(words).out
    host = Host(torch.device("cuda"))
    host.check()
    out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in AIMS:
        found[name] = full_size.measure(name, CONCEPT, host)
        (out / f"{name}.json").write_text(json.dumps(found[name], indent=1) + "\n", "utf-8")
        print(full_size.as_text(found[name]), flush=True)
    (out / "aims.md").write_text(aims_table(found) + "\n", "utf-8")
    (out / "profile.txt").write_text(profiled(PROFILED, host) + "\n", "utf-8")
    (out / "tests.txt").write_text(engine_tests(), "utf-8")
    print(aims_table(found))
    print((out / "tests.txt").read_text("utf-8").strip().rpartition("\n")[2])
