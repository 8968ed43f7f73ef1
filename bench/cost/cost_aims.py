"""What forgetting may cost, and what it costs: the aims of speed and memory from one command.

    python -m bench cost --out FOLDER [--heights 1,5,20,50] [--seeds 0,1,2]

At SD2's size, on random weights, as `full_size` does: `quick` on the first 1, 5, 20 and 50
objects of `many_concepts`, and the presets that use the UNet, with a few steps and on small
pictures, for it is their bytes that are asked for. On the demo model, on one thread: our presets
and the rivals `side_by_side`, and `many_concepts` itself. Every aim is a ratio within one part,
but for the seconds and bytes of one `quick`. FOLDER gets cost.json after each part, and the same
command goes on from there; at the end aims.md, stages.txt, methods.md and two plots. About 90
minutes on two cores with AMX, the first 32 of which nothing else may use them;
`--heights 1,20 --seeds 0` has all that the aims ask for in half of that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.cost import full_size
from bench.cost.random_model import Host
from bench.demo_cost import many_concepts, side_by_side
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
MOST_SECONDS, MOST_RATIO, MOST_BYTES = 50.0, 2.0, 1.6e9
MOST_SHARE, MOST_BEHIND = 0.5, 0.03
OTHERS = ((SDXL, 2.5, 3.0e9), (SD1, 2.5, 1.0e9))
"""Other families of which `quick` is measured: the most times its floor, the most bytes."""
PEERS = (("quick", ("uce",)), ("balanced", ("esd", "concept_ablation")))
"""A preset, and the methods of which none shall be faster."""

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


def beside(seed: int) -> str:
    """A part's name."""
    return f"methods on the demo model, seed {seed}"


def measures(heights: Sequence[int], seeds: Sequence[int]) -> dict[str, Callable[[], Numbers]]:
    """Part -> what measures it, those first that want the whole machine."""
    base, world, about = open_model("demo")
    order = many_concepts.objects_in_order(world)

    def demo(seed: int) -> Numbers:
        torch.set_num_threads(1)
        numbers = many_concepts.measure(base, world, PRESET, heights, TOGETHER, seed)
        return {"about": about | {"threads": 1}, **numbers}

    def methods(seed: int) -> Numbers:
        torch.set_num_threads(1)
        return {"about": about | {"threads": 1}, **side_by_side.measure(base, world, seed)}

    found: dict[str, Callable[[], Numbers]] = {}
    for height in heights:
        names = ",".join(order[:height])
        found[at_full_size(height)] = lambda names=names: full_size.measure(PRESET, names, Host())
    for family, _, _ in OTHERS:
        host = Host(size=family.native_size(None, "epsilon"), family=family)
        found[at_size_of(family)] = lambda host=host: full_size.measure(PRESET, order[0], host)
    for name, method in WITH_UNET.items():
        host = Host(size=UNET_SIZE, dtype=torch.float32)
        found[with_unet(name)] = lambda method=method, host=host: full_size.measure(
            method, order[0], host
        )
    for seed in seeds:
        found[beside(seed)] = lambda seed=seed: methods(seed)
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
    for family, most_ratio, most_bytes in OTHERS:
        if numbers := parts.get(at_size_of(family)):
            what = f"`{PRESET}` at {family.name}'s size, times its floor"
            yield what, most_ratio, numbers["ratio"], "{:.1f}".format
            yield "the same, memory beside the model", most_bytes, numbers["extra_bytes"], _bytes
    for name in WITH_UNET:
        if numbers := parts.get(with_unet(name)):
            share = numbers["extra_bytes"] / numbers["unet_bytes"]
            yield f"`{name}`, memory beside the model, of a UNet's", 1.0, share, "{:.2f}".format
    if one and many:
        share = many["seconds"] / (TOGETHER * one["seconds"])
        what = f"{TOGETHER} in one run at SD2's size, of the time of {TOGETHER} runs"
        yield what, MOST_SHARE, share, "{:.2f}".format
        yield "the same, memory beside the model", MOST_BYTES, many["extra_bytes"], _bytes
    if runs := side_by_side_runs(parts):
        seconds = {name: side_by_side.seconds_of(runs, name) for name in runs[0]["methods"]}
        for preset, peers in PEERS:
            peer = min(peers, key=seconds.__getitem__)
            what = f"`{preset}` on the demo model, of the time of `{peer}`"
            yield what, 1.0, seconds[preset] / seconds[peer], "{:.2f}".format
    for part, numbers in parts.items():
        for judged in numbers.get("together", ()):
            if judged["k"] == TOGETHER:
                where = part.removeprefix(f"{PRESET} ")
                share, behind = many_concepts.compared(judged, numbers["alone"])
                what = f"{TOGETHER} in one run {where}, of the time of {TOGETHER} runs"
                yield what, MOST_SHARE, share, "{:.2f}".format
                yield "the same, H_o behind the single runs", MOST_BEHIND, behind, _points


def side_by_side_runs(parts: Parts) -> list[Numbers]:
    """Those of all seeds."""
    return [numbers for numbers in parts.values() if "methods" in numbers]


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


def save_tables(parts: Parts, out: Path) -> None:
    """The aims, every stage beside its floor, and the methods side by side."""
    (out / "aims.md").write_text(aims_table(parts) + "\n", "utf-8")
    singles = [at_full_size(1), *(at_size_of(family) for family, _, _ in OTHERS)]
    if stages := [full_size.as_text(parts[name]) for name in singles if name in parts]:
        (out / "stages.txt").write_text("\n\n".join(stages) + "\n", "utf-8")
    if runs := side_by_side_runs(parts):
        (out / "methods.md").write_text(side_by_side.table(runs) + "\n", "utf-8")


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
    save_tables(parts, args.out)
    save_plots(parts, args.out)
    print(aims_table(parts))
