"""A run keeps what is finished and goes on from there."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from bench.jobs.command import count
from bench.jobs.plan import FULL_PLAN, STAGES, Job, Plan
from bench.jobs.rows import append_row, read_rows
from bench.jobs.run import run_jobs
from bench.jobs.runner import Runner, make_runner
from bench.jobs.summary import Table
from bench.jobs.workers import run_beside
from bench.protocol.cells import World
from bench.protocol.erased import Erased
from bench.protocol.layout import Sizes
from bench.protocol.setup import ModelChoice
from bench.protocol.task_pictures import task_pictures
from bench.report.report import write_report
from unlearn_core.loaders.diffusers_model import load_model
from unlearn_core.models.lent_model import build_encoder

FEW = ("cat", "fox", "wolf", "bear", "apple", "car", "house")
TINY = Plan(
    concepts=("cat",),
    methods=("base", "negative_prompt", "few_shot_erasing:published"),
    seeds=(0,),
    sizes=Sizes(name=2, near=1, other=1, pair=1),
)


@pytest.fixture(scope="module")
def base() -> Erased:
    model, _ = load_model("demo")
    return Erased(model, build_encoder(model), "base")


@pytest.fixture
def runner(base: Erased, tmp_path: Path) -> Runner:
    """On a world of seven objects, in two DDIM steps: quick, and not to be looked at."""
    world = World()
    world.objects = {name: world.objects[name] for name in FEW}
    return Runner(base, world, TINY, tmp_path, task_pictures, task_pictures, steps=2)


def test_a_run_goes_on_where_it_stopped_and_reports(runner: Runner) -> None:
    assert run_jobs(runner, ("main",), minutes=0) == 0
    append_row(runner.out, runner.run(runner.plan.jobs(("main",))[0]))
    with (runner.out / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"stage": "main", "conc')  # a process was killed here
    assert run_jobs(runner, ("main",)) == 2
    assert run_jobs(runner, ("main",)) == 0
    rows = read_rows(runner.out)
    assert [found["method"] for found in rows] == list(TINY.methods)
    assert all("failed" not in found for found in rows)
    assert len(rows[0]["cells"]["others"]["object"]) == len(FEW) - 1
    assert rows[1]["drift"][""] == 0
    assert 0 < rows[2]["drift"][""] < 0.05
    folder = write_report(runner.out)
    written = {path.name for path in folder.iterdir()}
    assert written == {"tables.md", "bench.json", "pareto.png", "cost.png", "sheet-cat.png"}
    text = (folder / "tables.md").read_text("utf-8")
    assert "| negative_prompt | prompt | 1 |" in text
    assert "not resolved" in text
    numbers = json.loads((folder / "bench.json").read_text("utf-8"))
    assert numbers["results"]["negative_prompt"]["cat"]["shown"]["count"] == 2


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    plan = dataclasses.replace(TINY, methods=("base", "negative_prompt"))
    choice = ModelChoice(steps=2)
    base, world, _ = choice.open()
    one, two = (make_runner(base, world, plan, tmp_path / name, choice) for name in ("one", "two"))
    for out in (one.out, two.out):
        out.mkdir()
    assert run_jobs(one, ("main",)) == 2
    beside = partial(run_beside, choice, plan, two.out, processes=2)
    assert run_jobs(two, ("main",), minutes=0, beside=beside) == 0
    assert run_jobs(two, ("main",), beside=beside) == 2
    # Threads sum in another order, so that single pictures may be read differently.
    counts = [
        {
            (row["method"], cell): len(read["style"])
            for row in read_rows(runner.out)
            for cell, read in row["cells"].items()
        }
        for runner in (one, two)
    ]
    assert counts[0] == counts[1]


def test_what_a_method_cannot_do_is_a_row(runner: Runner) -> None:
    runner.pictures = lambda _: ()
    found = runner.run(Job("main", "cat", "few_shot_erasing", 0))
    assert "needs" in found["failed"] or "pictures" in found["failed"]
    append_row(runner.out, found)
    assert Table(read_rows(runner.out)).result("cat", "few_shot_erasing") is None


def test_the_full_run_is_counted_without_a_model() -> None:
    text = count(FULL_PLAN, STAGES)
    assert "main         420 jobs" in text
    assert len(text.splitlines()) == len(STAGES) + 2


@pytest.mark.slow
def test_the_quick_run(tmp_path: Path, root: Path) -> None:
    command = [sys.executable, "-m", "bench", "run", "--quick", "--out", str(tmp_path)]
    finished = subprocess.run(
        command, cwd=root, capture_output=True, encoding="utf-8", timeout=1800
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    numbers = json.loads((tmp_path / "report" / "bench.json").read_text("utf-8"))
    assert numbers["failed"] == []
    assert numbers["results"]["quick"]["cat"]["ua"] > 0.8
    assert numbers["results"]["base"]["cat"]["ua"] < 0.2
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"pareto.png", "strength.png", "attacks.png", "cost.png", "sheet-neon.png"} <= written
