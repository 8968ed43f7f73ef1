"""OUT/report: tables.md, the plots, the contact sheets and bench.json, from the rows alone."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.jobs.rows import Row, read_rows
from bench.jobs.summary import Table
from bench.methods.find import BASE, changed_settings
from bench.protocol.metrics import Share
from bench.protocol.splits import CONTROLS
from bench.report import plots, tables
from bench.report.aims import PRESETS, aims_table
from bench.report.attack_summary import WORDS, attack_curves, attack_table, pooled, words_table
from bench.report.curves import strength_curve
from bench.report.sheets import contact_sheet


def main(words: Sequence[str]) -> None:
    """Write OUT/report anew."""
    parser = argparse.ArgumentParser(prog="python -m bench report", description=__doc__)
    parser.add_argument("out", type=Path, help="Where a run keeps its rows.")
    print(f"report: {write_report(parser.parse_args(words).out)}")


def write_report(out: Path) -> Path:
    """Write everything that the rows allow; the folder."""
    rows = read_rows(out)
    folder = out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    about = json.loads((out / "run.json").read_text("utf-8")) if (out / "run.json").exists() else {}
    main, sweeps = Table(rows), Table(rows, "sweeps")
    lora_methods = list(dict.fromkeys(r["method"] for r in rows if r["stage"] == "curves"))
    (folder / "tables.md").write_text(_text(rows, main, sweeps, lora_methods, about), "utf-8")
    (folder / "bench.json").write_text(
        json.dumps(_numbers(rows, main, sweeps, lora_methods, about), indent=1) + "\n", "utf-8"
    )
    if len(main.methods) > 1:
        plots.save(plots.pareto(main, "Test concepts"), folder / "pareto.png")
        plots.save(plots.cost(main), folder / "cost.png")
    if len(sweeps.methods) > 1:
        figure = plots.pareto(sweeps, "Sweeps on tuning concepts")
        plots.save(figure, folder / "sweeps.png")
    if lora_methods:
        figure = plots.strength_curves(rows, lora_methods, main.concepts)
        plots.save(figure, folder / "strength.png")
    if pooled(attack_curves(rows, CONTROLS)):
        plots.save(plots.attacks(rows, CONTROLS), folder / "attacks.png")
    _sheets(out, main, folder)
    return folder


def _sheets(out: Path, main: Table, folder: Path) -> None:
    for concept in main.concepts:
        strips = [
            row["strip"]
            for (name, _), by_seed in main.rows.items()
            for row in by_seed.values()
            if name == concept and "strip" in row
        ]
        sheet = contact_sheet(out, concept, main.methods, strips[0]) if strips else None
        if sheet is not None:
            sheet.save(folder / f"sheet-{concept.replace(' ', '-')}.png", optimize=True)


def _text(
    rows: Sequence[Row],
    main: Table,
    sweeps: Table,
    lora_methods: Sequence[str],
    about: dict[str, Any],
) -> str:
    parts = ["# Bench", _intro(main, about), "## All methods", tables.overview(main)]
    if main.left_out:
        parts.append(
            "Left out of IRA and CRA, because the unchanged model draws them in under 90 %: "
            + ", ".join(main.left_out)
            + "."
        )
    if set(PRESETS) & set(main.methods):
        parts += ["## Aims of the presets", aims_table(main)]
    parts += ["## Limits", tables.limits(main)]
    for method in main.methods:
        if main.results(method):
            parts += [f"## {method}", tables.by_concept(main, method)]
    if lora_methods:
        parts += ["## LoRA strength", tables.curves(rows, lora_methods, main.concepts)]
    if any(row["stage"] == "stacking" for row in rows):
        parts += ["## Stacks", tables.stacks(rows)]
    if any(row["stage"] == "attacks" for row in rows):
        parts += ["## Attacks", attack_table(rows, CONTROLS)]
        if any(row["detail"] == WORDS for row in rows):
            parts += ["## Attacks by words", words_table(rows)]
    if sweeps.methods:
        changes = [
            f"- {method}: {changed_settings(method) or 'as published'}"
            for method in sweeps.methods
            if ":" in method
        ]
        parts += ["## Sweeps, on tuning concepts", tables.overview(sweeps), "\n".join(changes)]
    failed = [row for row in rows if "failed" in row]
    if failed:
        lines = [f"- {r['stage']}, {r['concept']}, {r['method']}: {r['failed']}" for r in failed]
        parts += ["## Failed", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _intro(main: Table, about: dict[str, Any]) -> str:
    seeds = sorted({seed for by_seed in main.rows.values() for seed in by_seed})
    made = ", ".join(f"{name} {value}" for name, value in about.items())
    return (
        f"Concepts: {', '.join(main.concepts)}. Seeds: {', '.join(map(str, seeds))}. "
        "Percent and points; median over concepts / worst concept; 95 % intervals in brackets: "
        "Wilson's for shares, Newcombe's for drops on the same noise. † the unchanged model draws "
        f"it in under 90 % of the cell. {made}"
    )


def _numbers(
    rows: Sequence[Row],
    main: Table,
    sweeps: Table,
    lora_methods: Sequence[str],
    about: dict[str, Any],
) -> dict[str, Any]:
    def all_results(table: Table) -> dict[str, dict[str, Any]]:
        return {m: {r.concept: _plain(r) for r in table.results(m)} for m in table.methods}

    return {
        "about": about,
        "results": all_results(main),
        "sweeps": all_results(sweeps),
        "left_out": main.left_out,
        "curves": {
            method: {
                concept: [_plain(point) for point in strength_curve(rows, concept, method)]
                for concept in main.concepts
            }
            for method in lora_methods
        },
        "stacks": [
            {key: value for key, value in row.items() if key != "cells"}
            | {"shown": {name: _counts(read) for name, read in row["cells"].items()}}
            for row in rows
            if row["stage"] == "stacking" and "failed" not in row
        ],
        "attacks": [_plain(group) for group in pooled(attack_curves(rows, CONTROLS))],
        "failed": [row for row in rows if "failed" in row],
        "base": BASE,
    }


def _counts(read: dict[str, str]) -> dict[str, Any]:
    return {question: _plain(Share.of(readings)) for question, readings in read.items()}


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value)
