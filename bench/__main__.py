"""The benchmark of the repository: our presets and their rivals, measured and attacked.

python -m bench run --quick            everything once on few pictures, about ten minutes
python -m bench run                    the full run: hours; stop it, start it again
python -m bench run --processes 2      the same in two processes side by side
python -m bench run --model sd2.safetensors --clip clip-vit-large-patch14
python -m bench ablate                 variants of our presets, on tuning concepts alone
python -m bench report out/bench       tables, plots and sheets from the rows that are there
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.attacks.pictures import SHOWN
from bench.jobs.plan import FULL_PLAN, QUICK_PLAN, STAGES, Plan, job_pictures
from bench.jobs.run import run_jobs
from bench.jobs.runner import make_runner
from bench.jobs.workers import run_beside
from bench.methods.find import BASE
from bench.protocol.cells import DRAW_STEPS
from bench.protocol.setup import ModelChoice
from bench.trials import ablations
from unlearn_core.errors import BadSettings, UnlearnError

MILLISECONDS = 60
"""Of one picture of the demo model on two CPU cores, 8 steps, judged."""


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="Do the jobs that are not done yet, then report.")
    run.add_argument("--out", type=Path, default=None, help="Default: out/bench or out/quick.")
    run.add_argument("--quick", action="store_true", help="Few pictures, two concepts.")
    run.add_argument("--count", action="store_true", help="Print what would be done, and stop.")
    run.add_argument("--stages", default=",".join(STAGES), help="Some of: %(default)s.")
    run.add_argument("--concepts", help="Instead of the plan's: cat,bus")
    run.add_argument("--methods", help="Instead of the plan's: base,quick,esd:published")
    run.add_argument("--seeds", help="Instead of 0,1,2.")
    run.add_argument("--model", default="demo", help="A diffusers folder or .safetensors of SD2.")
    run.add_argument("--clip", type=Path, help="Folder of a CLIPModel: the judge with --model.")
    run.add_argument("--steps", type=int, default=DRAW_STEPS, help="DDIM steps of a picture.")
    run.add_argument("--size", type=int, help="Edge of the pictures, if not the model's own.")
    ablate = commands.add_parser("ablate", help="Vary one thing of our presets at a time.")
    ablate.add_argument("--out", type=Path, default=Path("out", "ablations"))
    ablate.add_argument(
        "--families", default=",".join(ablations.FAMILIES), help="Some of: %(default)s."
    )
    for command in (run, ablate):
        command.add_argument("--processes", type=int, default=1, help="Side by side.")
        command.add_argument("--minutes", type=float, help="Stop before the next job.")
    report = commands.add_parser("report", help="Write OUT/report anew.")
    report.add_argument("out", type=Path)
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    try:
        if args.command == "run":
            _run(args)
        elif args.command == "ablate":
            _ablate(args)
        else:
            _report(args.out)
    except UnlearnError as error:
        sys.exit(f"{error}")


def _run(args: argparse.Namespace) -> None:
    plan = chosen_plan(args)
    stages = tuple(args.stages.split(","))
    unknown = sorted(set(stages) - set(STAGES))
    if unknown:
        raise BadSettings(f"Unknown stage: {', '.join(unknown)}. Known: {', '.join(STAGES)}.")
    if args.count:
        print(count(plan, stages))
        return
    out = args.out or Path("out") / ("quick" if args.quick else "bench")
    choice = ModelChoice(args.model, args.clip, args.size, args.steps)
    _do_jobs(choice, plan, out, stages, args, {"steps": args.steps, "quick": args.quick})
    _report(out)


def _ablate(args: argparse.Namespace) -> None:
    plan = ablations.ablation_plan(tuple(args.families.split(",")))
    _do_jobs(ModelChoice(), plan, args.out, ablations.STAGES, args)
    print(f"report: {ablations.write_ablations(args.out)}")


def _do_jobs(
    choice: ModelChoice,
    plan: Plan,
    out: Path,
    stages: tuple[str, ...],
    args: argparse.Namespace,
    about: dict[str, Any] | None = None,
) -> None:
    base, world, model = choice.open()
    out.mkdir(parents=True, exist_ok=True)
    model |= {"processes": args.processes, **(about or {})}
    (out / "run.json").write_text(json.dumps(model, indent=1) + "\n")
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
    return plan


def count(plan: Plan, stages: tuple[str, ...]) -> str:
    """Jobs and pictures of each stage, and hours of drawing on two cores."""
    from unlearn_core.demo_model import load_demo_world

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


def _report(out: Path) -> None:
    from bench.report.report import write_report

    print(f"report: {write_report(out)}")


if __name__ == "__main__":
    main()
