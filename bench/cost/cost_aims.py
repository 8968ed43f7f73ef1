"""What forgetting may cost, and what it costs: the aims of speed and memory from one command.

    python -m bench cost --out FOLDER [--heights 1,5,20,50] [--seeds 0,1,2]

At SD2's size, on random weights, as `full_size` does: `quick` on the first 1, 5, 20 and 50
objects of `many_concepts`, and the presets that use the UNet, with a few steps and on small
pictures, for it is their bytes that are asked for. On the demo model: `many_concepts` itself,
on one thread. Every aim is a ratio within one part, but for the seconds and bytes of one `quick`.
FOLDER gets cost.json after each part, and the same command goes on from there; at the end aims.md,
full-size-quick.png and many.png. About 55 minutes on two cores with AMX, the first 32 of which
nothing else may use them; `--heights 1,20 --seeds 0` has all that the aims ask for in half of that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.cost import full_size, many_concepts
from bench.cost.random_model import Host
from bench.protocol.setup import open_model
from bench.report.tables import markdown
from unlearn_core.forgetting.memory_plan import gigabytes
from unlearn_core.models.families import SD1, SDXL, Family

PRESET = "quick"
_SHORT = "inversion_steps=2+inversion_batch=2+steps=2+stand_in_pictures=1"
WITH_UNET = {
    "paper": "paper:steps=2",
    "balanced": f"balanced:{_SHORT}",
    "robust": f"robust:{_SHORT}",
}
UNET_SIZE = 64
"""Edge of the pictures that go through the UNet, in pixels: what it keeps of them is little beside
its weights, and it computes in their dtype, float32."""
TOGETHER = 20
"""Concepts in one run that the aims are about."""
MOST_SECONDS, MOST_RATIO, MOST_BYTES = 50.0, 3.0, 1.6e9
MOST_SHARE, MOST_BEHIND = 0.5, 0.03
OTHERS = ((SDXL, 3.0e9), (SD1, 1.0e9))
"""Other families of which `quick` is measured and the most bytes beside the model."""

Numbers = dict[str, Any]
Parts = dict[str, Numbers]


def at_full_size(height: int) -> str:
    """A part's name."""
    return f"{PRESET}, {height} at SD2's size"


def at_size_of(family: Family) -> str:
    """A part's name."""
    return f"{PRESET} at {family.name}'s size"


def with_unet(preset: str) -> str:
    """A part's name."""
    return f"{preset}, bytes"


def on_demo(seed: int) -> str:
    """A part's name."""
    return f"{PRESET} on the demo model, seed {seed}"


def measures(heights: Sequence[int], seeds: Sequence[int]) -> dict[str, Callable[[], Numbers]]:
    """Part -> what measures it, those first that want the whole machine."""
    base, world, about = open_model("demo")
    order = many_concepts.objects_in_order(world)

    def demo(seed: int) -> Numbers:
        torch.set_num_threads(1)
        numbers = many_concepts.measure(base, world, PRESET, heights, TOGETHER, seed)
        return {"about": about | {"threads": 1}, **numbers}

    found: dict[str, Callable[[], Numbers]] = {}
    for height in heights:
        names = ",".join(order[:height])
        found[at_full_size(height)] = lambda names=names: full_size.measure(PRESET, names, Host())
    for family, _ in OTHERS:
        host = Host(size=family.native_size(None, "epsilon"), family=family)
        found[at_size_of(family)] = lambda host=host: full_size.measure(PRESET, order[0], host)
    for name, method in WITH_UNET.items():
        host = Host(size=UNET_SIZE, dtype=torch.float32)
        found[with_unet(name)] = lambda method=method, host=host: full_size.measure(
            method, order[0], host
        )
    for seed in seeds:
        found[on_demo(seed)] = lambda seed=seed: demo(seed)
    return found


def aims(parts: Parts) -> Iterator[tuple[str, float, float, Callable[[float], str]]]:
    """(What is asked, the most it may be, what it is, how that is written) of all parts there."""
    one, many = parts.get(at_full_size(1)), parts.get(at_full_size(TOGETHER))
    if one:
        yield "`quick` at SD2's size, whole run", MOST_SECONDS, one["seconds"], "{:.1f} s".format
        yield "the same, times its floor", MOST_RATIO, one["ratio"], "{:.1f}".format
        yield "the same, memory beside the model", MOST_BYTES, one["extra_bytes"], _bytes
    for family, most in OTHERS:
        if numbers := parts.get(at_size_of(family)):
            what = f"`{PRESET}` at {family.name}'s size, times its floor"
            yield what, MOST_RATIO, numbers["ratio"], "{:.1f}".format
            yield "the same, memory beside the model", most, numbers["extra_bytes"], _bytes
    for name in WITH_UNET:
        if numbers := parts.get(with_unet(name)):
            share = numbers["extra_bytes"] / numbers["unet_bytes"]
            yield f"`{name}`, memory beside the model, of a UNet's", 1.0, share, "{:.2f}".format
    if one and many:
        share = many["seconds"] / (TOGETHER * one["seconds"])
        what = f"{TOGETHER} in one run at SD2's size, of the time of {TOGETHER} runs"
        yield what, MOST_SHARE, share, "{:.2f}".format
        yield "the same, memory beside the model", MOST_BYTES, many["extra_bytes"], _bytes
    for part, numbers in parts.items():
        for judged in numbers.get("together", ()):
            if judged["k"] == TOGETHER:
                where = part.removeprefix(f"{PRESET} ")
                share, behind = many_concepts.compared(judged, numbers["alone"])
                what = f"{TOGETHER} in one run {where}, of the time of {TOGETHER} runs"
                yield what, MOST_SHARE, share, "{:.2f}".format
                yield "the same, H_o behind the single runs", MOST_BEHIND, behind, _points


def _bytes(size: float) -> str:
    return gigabytes(int(size))


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def aims_table(parts: Parts) -> str:
    """Markdown."""
    lines = [
        (what, f"≤ {write(most)}", write(found), "met" if found <= most else "**missed**")
        for what, most, found, write in aims(parts)
    ]
    return markdown(("what", "aim", "measured", ""), lines)


def is_whole(numbers: Numbers | None, heights: Sequence[int]) -> bool:
    """Whether a part is there; one on the demo model has to have all heights."""
    if numbers is None:
        return False
    return "together" not in numbers or {one["k"] for one in numbers["together"]} >= set(heights)


def save_plots(parts: Parts, out: Path) -> None:
    """Stages of one `quick`, and cost and interference by the number of concepts."""
    if at_full_size(1) in parts:
        full_size.save_plot(parts[at_full_size(1)], out / "full-size-quick.png")
    whole = {
        numbers["concept"].count(",") + 1: numbers["seconds"]
        for name, numbers in parts.items()
        if name.startswith(PRESET) and "seconds" in numbers
    }
    if seeded := [numbers for numbers in parts.values() if "together" in numbers]:
        many_concepts.save_plot(seeded, out / "many.png", whole)


def main(words: Sequence[str]) -> None:
    """Measure what is not there yet."""

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(
        prog="python -m bench cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--heights", type=numbers, default="1,5,20,50", help="Concepts in a run.")
    parser.add_argument("--seeds", type=numbers, default="0,1,2")
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "cost.json"
    parts: Parts = json.loads(file.read_text("utf-8")) if file.exists() else {}
    for name, measure in measures(args.heights, args.seeds).items():
        if not is_whole(parts.get(name), args.heights):
            print(f"{name} ...", flush=True)
            parts[name] = measure()
            file.write_text(json.dumps(parts, indent=1) + "\n", "utf-8")
    table = aims_table(parts)
    (args.out / "aims.md").write_text(table + "\n", "utf-8")
    save_plots(parts, args.out)
    print(table)
