"""The README's tables from the rows of `bench.forget_table`.

    python -m bench.table_summary FOLDER

Shares are pooled over seeds; drops are points against the base model on the same prompts and the
same noise; brackets are 95 % Wilson intervals of the pooled share.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

from bench.cells import wilson
from bench.forget_table import CONCEPT_PICTURES, CONCEPTS, PRESETS

Row = dict


def drops(rows: Sequence[Row], base: dict[tuple[str, int], Row]) -> dict[str, float]:
    """What the rows of one concept lose against the base, in points, mean over seeds."""
    pairs = [(row, base[row["concept"], row["seed"]]) for row in rows]
    words = rows[0]["neighbours"]
    near = [mean(b["neighbours"][w] - r["neighbours"][w] for r, b in pairs) for w in words]
    return {
        "near": 100 * mean(near),
        "worst_near": 100 * max(near),
        "others": 100 * mean(b["others"] - r["others"] for r, b in pairs),
        "styles": 100 * mean(b["styles"] - r["styles"] for r, b in pairs),
    }


def concept_line(name: str, rows: Sequence[Row], base: dict[tuple[str, int], Row]) -> str:
    """One line of the table by concept."""
    shown = mean(row["shown"] for row in rows)
    before = mean(base[name, row["seed"]]["shown"] for row in rows)
    count = CONCEPT_PICTURES * len(rows)
    low, high = wilson(round(shown * count), count)
    lost = drops(rows, base)
    stand_ins = ", ".join(sorted({row["stand_in"] for row in rows}))
    near = ", ".join(rows[0]["neighbours"])
    drift = max(row["drift"][0] for row in rows)
    return (
        f"| {name} | {stand_ins} | {before:.1%} | {shown:.1%} [{low:.1%}, {high:.1%}] "
        f"| {near} | {lost['near']:+.1f} / {lost['worst_near']:+.1f} | {lost['others']:+.1f} "
        f"| {lost['styles']:+.1f} | {drift:.2%} | {median(r['seconds'] for r in rows):.0f} |"
    )


def main() -> None:
    """Print a table for each preset, and a line of medians and worst concepts."""
    lines = (Path(sys.argv[1]) / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    base = {(r["concept"], r["seed"]): r for r in rows if r["preset"] == "base"}
    for preset in PRESETS:
        by_concept = {
            name: [r for r in rows if (r["preset"], r["concept"]) == (preset, name)]
            for name in CONCEPTS
        }
        by_concept = {name: found for name, found in by_concept.items() if found}
        if not by_concept:
            continue
        seeds = {len(found) for found in by_concept.values()}
        print(f"\n{preset} (seeds per concept: {', '.join(map(str, sorted(seeds)))})\n")
        print(
            "| concept | stand-in | shown before | after | neighbours | drop mean / worst "
            "| others | styles | drift of empty | s |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        for name, found in by_concept.items():
            print(concept_line(name, found, base))
        shown = {name: mean(r["shown"] for r in found) for name, found in by_concept.items()}
        lost = {name: drops(found, base) for name, found in by_concept.items()}
        worst = max(shown, key=lambda name: shown[name])
        print(
            f"\nshown after: median {median(shown.values()):.1%}, worst {worst} {shown[worst]:.1%}"
        )
        for key in ("near", "worst_near", "others", "styles"):
            values = {name: value[key] for name, value in lost.items()}
            bad = max(values, key=lambda name: values[name])
            middle, average = median(values.values()), mean(values.values())
            print(
                f"{key}: median {middle:+.1f}, mean {average:+.1f}, worst {bad} {values[bad]:+.1f}"
            )
        empty = max(r["drift"][0] for found in by_concept.values() for r in found)
        negative = max(d for found in by_concept.values() for r in found for d in r["drift"][1:])
        print(f"drift: empty prompt at most {empty:.2%}, negative prompts at most {negative:.2%}")


if __name__ == "__main__":
    main()
