"""Rows to results: seeds pooled, compared with the unchanged model on the same noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.jobs.rows import Row
from bench.methods.find import BASE
from bench.protocol.metrics import (
    WEAK,
    Difference,
    Neighbours,
    Share,
    neighbours,
    overall,
    paired_drop,
    reported,
    retain_accuracy,
    selective_alignment,
    unlearning_accuracy,
)

ENOUGH = 10
"""Pictures of an object below which nothing is said about how the base draws it."""


@dataclass(frozen=True)
class Result:
    """One method on one concept, its seeds pooled."""

    concept: str
    method: str
    seeds: int
    before: Share
    """The unchanged model's pictures of the name that show the concept."""
    shown: Share
    """The same pictures, after. Its interval knows the pictures, not how far training scatters."""
    shown_by_seed: tuple[Share, ...]
    grammars: Share
    """Its name in sentences that no template looks like."""
    synonyms: Share | None
    """Its held-out synonyms; None where it has none."""
    described: Share | None
    """Descriptions that never say its name; None where the model was taught none."""
    ua: float
    generally: float
    """Acc_g: share of the synonyms' pictures that show it; of `grammars` where it has none."""
    ira: Share
    cra: Share
    ira_drop: Difference
    cra_drop: Difference
    h_o: float
    near: Neighbours | None
    near_drops: dict[str, Difference]
    weak: tuple[str, ...]
    """The concept or neighbours that the base hardly draws, see WEAK: not counted as neighbours."""
    pairs: Share | None
    """Pictures of the concept and another object that show the other one."""
    pairs_before: Share | None
    pairs_drop: Difference | None
    pairs_concept: Share | None
    """The same pictures: those that show the concept."""
    drift_empty: float
    drift_negative: float
    """Greatest of the five."""
    drawn_drift: float
    """Of the empty prompt, as the UNet feels it."""
    seconds: float
    peak_bytes: int
    file_bytes: int
    family: str
    stand_ins: tuple[str, ...]


class Table:
    """All rows of one stage, by concept and method."""

    def __init__(self, rows: Iterable[Row], stage: str = "main") -> None:
        """Failed rows are kept apart."""
        self.rows: dict[tuple[str, str], dict[int, Row]] = defaultdict(dict)
        self.failed: list[Row] = []
        for row in rows:
            if row["stage"] != stage:
                continue
            if "failed" in row:
                self.failed.append(row)
            else:
                self.rows[row["concept"], row["method"]][row["seed"]] = row
        self.left_out = self._weak_objects()

    @property
    def concepts(self) -> list[str]:
        """In the order of the rows."""
        return list(dict.fromkeys(concept for concept, _ in self.rows))

    @property
    def methods(self) -> list[str]:
        """In the order of the rows; the base first."""
        return list(dict.fromkeys(method for _, method in self.rows))

    def pair(self, concept: str, method: str) -> list[tuple[Row, Row]]:
        """(base, method) for each seed that both have."""
        base, own = self.rows.get((concept, BASE), {}), self.rows.get((concept, method), {})
        return [(base[seed], own[seed]) for seed in sorted(own) if seed in base]

    def _weak_objects(self) -> tuple[str, ...]:
        """Objects that the base draws in under 90 % of all pictures asked for them."""
        seen: dict[str, str] = defaultdict(str)
        for (_, method), by_seed in self.rows.items():
            if method != BASE:
                continue
            for row in by_seed.values():
                asked = row.get("words", {}).get("others", [])
                readings = row["cells"]["others"]["object"]
                for number, bit in enumerate(readings if asked else ""):
                    seen[asked[number % len(asked)]] += bit
        return tuple(
            word
            for word, readings in seen.items()
            if len(readings) >= ENOUGH and Share.of(readings).value < WEAK
        )

    def result(self, concept: str, method: str) -> Result | None:
        """The method's result on the concept; None before both it and the base have a row."""
        pairs = self.pair(concept, method)
        if not pairs:
            return None
        own: str = pairs[0][1]["kind"]
        read = _Readings(pairs, own)
        before, shown = (Share.of(side) for side in read.both("name", own))
        said = [read.after(cell, own) for cell in ("grammars", "synonyms", "described")]
        grammars, synonyms, described = said
        kept = read.kept(self.left_out if own == "object" else ())
        near = read.near(*((concept,) if before.value < WEAK else ()))
        ua = unlearning_accuracy(shown)
        generally = (synonyms or grammars or Share(0, 0)).value
        return Result(
            concept=concept,
            method=method,
            seeds=len(pairs),
            before=before,
            shown=shown,
            shown_by_seed=tuple(Share.of(row["cells"]["name"][own]) for _, row in pairs),
            grammars=grammars or Share(0, 0),
            synonyms=synonyms,
            described=described,
            ua=ua,
            generally=generally,
            h_o=overall(ua, generally, kept["ira"].value, kept["cra"].value),
            **kept,
            **near,
            **read.pairs_of_things(),
            **_price([row for _, row in pairs]),
        )

    def results(self, method: str) -> list[Result]:
        """The method's results on all concepts that have one."""
        found = (self.result(concept, method) for concept in self.concepts)
        return [result for result in found if result is not None]


@dataclass(frozen=True)
class _Readings:
    """What the judge read in the same pictures of the base and of a method, seeds joined."""

    pairs: Sequence[tuple[Row, Row]]
    own: str
    """The question that asks about the concept itself."""

    @property
    def cells(self) -> dict[str, Any]:
        return self.pairs[0][1]["cells"]

    def both(self, cell: str, question: str) -> tuple[str, str]:
        """Of the base and of the method."""
        before, after = zip(
            *((b["cells"][cell][question], m["cells"][cell][question]) for b, m in self.pairs),
            strict=True,
        )
        return "".join(before), "".join(after)

    def after(self, cell: str, question: str) -> Share | None:
        return Share.of(self.both(cell, question)[1]) if cell in self.cells else None

    def kept(self, left_out: Sequence[str]) -> dict[str, Any]:
        """IRA and CRA with their drops."""
        asked = self.pairs[0][1].get("words", {}).get("others", [])
        other = "style" if self.own == "object" else "object"
        found: dict[str, Any] = {}
        for name, question in (("ira", self.own), ("cra", other)):
            sides = [reported(s, asked, left_out) for s in self.both("others", question)]
            found |= {name: retain_accuracy(sides[1]), f"{name}_drop": paired_drop(*sides)}
        return found

    def near(self, *weak: str) -> dict[str, Any]:
        """The three nearest; those that the base rarely draws join the `weak` ones."""
        near = {
            name.partition(":")[2]: self.both(name, self.own)
            for name in self.cells
            if name.startswith("near:")
        }
        strong = {word: both for word, both in near.items() if Share.of(both[0]).value >= WEAK}
        sides = [{word: both[i] for word, both in strong.items()} for i in (0, 1)]
        return {
            "near": neighbours(*sides) if strong else None,
            "near_drops": {word: paired_drop(*both) for word, both in near.items()},
            "weak": (*weak, *(word for word in near if word not in strong)),
        }

    def pairs_of_things(self) -> dict[str, Any]:
        """The cell of pairs, which a style lacks."""
        both = self.both("pairs", "other") if "pairs" in self.cells else None
        aligned = selective_alignment(*both) if both else (None, None)
        return {
            "pairs": aligned[0],
            "pairs_before": Share.of(both[0]) if both else None,
            "pairs_drop": aligned[1],
            "pairs_concept": self.after("pairs", "concept"),
        }


def _price(rows: Sequence[Row]) -> dict[str, Any]:
    """Drift, time, memory and size."""
    drifts = [list(row["drift"].values()) for row in rows if "drift" in row]
    notes = [row["notes"]["stand-in"] for row in rows if "stand-in" in row.get("notes", {})]
    return {
        "drift_empty": max((values[0] for values in drifts), default=0.0),
        "drift_negative": max((max(values[1:]) for values in drifts), default=0.0),
        "drawn_drift": max(row.get("drawn_drift", {}).get("", 0.0) for row in rows),
        "seconds": median(row.get("seconds", 0.0) for row in rows),
        "peak_bytes": int(median(row.get("peak_bytes", 0) for row in rows)),
        "file_bytes": max(row.get("file_bytes", 0) for row in rows),
        "family": rows[0].get("family", BASE),
        "stand_ins": tuple(dict.fromkeys(notes)),
    }


def best_methods(rows: Sequence[Row], count: int = 3) -> tuple[str, ...]:
    """The methods of the highest median H_o over the concepts, the base left out."""
    table = Table(rows)
    medians = {
        method: median(result.h_o for result in results)
        for method in table.methods
        if method != BASE and (results := table.results(method))
    }
    return tuple(sorted(medians, key=lambda method: -medians[method])[:count])
