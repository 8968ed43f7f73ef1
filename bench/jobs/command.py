"""The command `run`: every method on every concept, measured and attacked.

python -m bench run --quick            everything once on few pictures, about ten minutes
python -m bench run                    the full run: hours; stop it, start it again
python -m bench run --processes 2      the same in two processes side by side
python -m bench run --model sd2.safetensors --clip clip-vit-large-patch14
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.attacks.pictures import SHOWN
from bench.jobs.plan import FULL_PLAN, QUICK_PLAN, STAGES, Plan, job_pictures
from bench.jobs.run import run_jobs
from bench.jobs.runner import make_runner
from bench.jobs.workers import run_beside
from bench.methods.find import BASE
from bench.protocol.cells import DRAW_STEPS
from bench.protocol.setup import ModelChoice
from unlearn_core.concept import KINDS
from unlearn_core.errors import BadSettings
from unlearn_core.loaders.demo_model import load_demo_world

MILLISECONDS = 60
"""Of one picture of the demo model on two CPU cores, 8 steps, judged."""


def run(words: Sequence[str]) -> Path | None:
    """Do the jobs that are not done yet; the folder of their rows, None if they are but counted.

    Raises BadSettings, and BadFile or WrongModel for a model or rows that can't be read.
    """
    args = _parser().parse_args(words)
    plan, stages = chosen_plan(args), tuple(args.stages.split(","))
    unknown = sorted(set(stages) - set(STAGES))
    if unknown:
        raise BadSettings(f"Unknown stage: {', '.join(unknown)}. Known: {', '.join(STAGES)}.")
    if args.count:
        print(count(plan, stages))
        return None
    out = args.out or Path("out") / ("quick" if args.quick else "bench")
    choice = ModelChoice(args.model, args.clip, args.size, args.steps)
    do_jobs(
        choice,
        plan,
        out,
        stages,
        args,
        {"steps": args.steps, "quick": args.quick, "kind": args.kind},
    )
    return out


def _parser() -> argparse.ArgumentParser:
    run = argparse.ArgumentParser(
        prog="python -m bench run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--out", type=Path, default=None, help="Default: out/bench or out/quick.")
    run.add_argument("--quick", action="store_true", help="Few pictures, two concepts.")
    run.add_argument("--count", action="store_true", help="Print what would be done, and stop.")
    run.add_argument("--stages", default=",".join(STAGES), help="Some of: %(default)s.")
    run.add_argument("--concepts", help="Instead of the plan's: cat,bus")
    run.add_argument("--methods", help="Instead of the plan's: base,quick,esd:published")
    run.add_argument("--seeds", help="Instead of 0,1,2.")
    run.add_argument("--kind", choices=KINDS, help="As what all concepts are forgotten.")
    run.add_argument(
        "--model", default="demo", help="A demo model, a diffusers folder or a .safetensors file."
    )
    run.add_argument("--clip", type=Path, help="Folder of a CLIPModel: the judge with --model.")
    run.add_argument("--steps", type=int, default=DRAW_STEPS, help="DDIM steps of a picture.")
    run.add_argument("--size", type=int, help="Edge of the pictures, if not the model's own.")
    add_pace(run)
    return run


def add_pace(parser: argparse.ArgumentParser) -> None:
    """What every command that does jobs takes."""
    parser.add_argument("--processes", type=int, default=1, help="Side by side.")
    parser.add_argument("--minutes", type=float, help="Stop before the next job.")


def do_jobs(
    choice: ModelChoice,
    plan: Plan,
    out: Path,
    stages: tuple[str, ...],
    args: argparse.Namespace,
    about: dict[str, Any] | None = None,
) -> None:
    """Do what is left of a plan in OUT, in as many processes as asked for."""
    base, world, model = choice.open()
    out.mkdir(parents=True, exist_ok=True)
    model |= {"processes": args.processes, **(about or {})}
    (out / "run.json").write_text(json.dumps(model, indent=1) + "\n", "utf-8")
    beside = None
    if args.processes > 1:
        beside = partial(run_beside, choice, plan, out, processes=args.processes)
    run_jobs(make_runner(base, world, plan, out, choice), stages, args.minutes, beside)


def chosen_plan(args: argparse.Namespace) -> Plan:
    """The plan with what the command line changes."""
    plan = QUICK_PLAN if args.quick else FULL_PLAN
    if args.concepts:
        names = tuple(args.concepts.split(","))
        plan = dataclasses.replace(
            plan,
            concepts=names,
            stacked=names,
            heights=tuple(height for height in plan.heights if height <= len(names)),
            attacked=tuple(name for name in names if name in SHOWN),
            sweep_concepts=names,
        )
    if args.methods:
        names = tuple(args.methods.split(","))
        erasers = tuple(name for name in names if name != BASE)
        curved = tuple(name for name in plan.curve_methods if name in names)
        plan = dataclasses.replace(
            plan, methods=names, sweep_methods=names, curve_methods=curved, attack_methods=erasers
        )
    if args.seeds:
        plan = dataclasses.replace(plan, seeds=tuple(map(int, args.seeds.split(","))))
    return dataclasses.replace(plan, kind=args.kind)


def count(plan: Plan, stages: tuple[str, ...]) -> str:
    """Jobs and pictures of each stage, and hours of drawing on two cores."""
    world = load_demo_world()
    lines, total = [], 0
    for stage in STAGES:
        jobs = plan.jobs((stage,), ("first", "second", "third")) if stage in stages else []
        pictures = sum(job_pictures(plan, job, world["objects"], world["styles"]) for job in jobs)
        total += pictures
        hours = pictures * MILLISECONDS / 3.6e6
        lines.append(f"{stage:10}{len(jobs):6} jobs {pictures:8,} pictures {hours:6.1f} h")
    hours = total * MILLISECONDS / 3.6e6
    lines.append(f"{'':10}{'':6}      {total:8,} pictures {hours:6.1f} h at {MILLISECONDS} ms each")
    lines.append(
        "Not in it: what the methods themselves compute, the attacks' steps, and the words attack."
    )
    return "\n".join(lines)
