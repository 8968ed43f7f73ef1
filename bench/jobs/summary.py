"""Rows to results: seeds pooled, compared with the unchanged model on the same noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

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
    """The concept or neighbours that the base draws in under 90 % of the cell; they do not count
    as neighbours."""
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
    notes: tuple[str, ...]


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
        own = pairs[0][1]["kind"]
        other = "style" if own == "object" else "object"

        def sides(cell: str, question: str) -> tuple[str, str]:
            before, after = zip(
                *((b["cells"][cell][question], m["cells"][cell][question]) for b, m in pairs),
                strict=True,
            )
            return "".join(before), "".join(after)

        cells = pairs[0][1]["cells"]
        before, shown = (Share.of(side) for side in sides("name", own))
        grammars = Share.of(sides("grammars", own)[1]) if "grammars" in cells else Share(0, 0)
        synonyms = Share.of(sides("synonyms", own)[1]) if "synonyms" in cells else None
        asked = pairs[0][1].get("words", {}).get("others", [])
        left_out = self.left_out if own == "object" else ()
        in_domain, across = (
            tuple(reported(side, asked, left_out) for side in sides("others", question))
            for question in (own, other)
        )
        ira, cra = retain_accuracy(in_domain[1]), retain_accuracy(across[1])
        near = {
            name.partition(":")[2]: sides(name, own) for name in cells if name.startswith("near:")
        }
        weak = tuple(word for word, (first, _) in near.items() if Share.of(first).value < WEAK)
        strong = {word: both for word, both in near.items() if word not in weak}
        pair = sides("pairs", "other") if "pairs" in cells else None
        aligned = selective_alignment(*pair) if pair else (None, None)
        ua = unlearning_accuracy(shown)
        generally = (synonyms or grammars).value
        rows = [row for _, row in pairs]
        drifts = [list(row["drift"].values()) for row in rows if "drift" in row]
        return Result(
            concept=concept,
            method=method,
            seeds=len(pairs),
            before=before,
            shown=shown,
            shown_by_seed=tuple(Share.of(row["cells"]["name"][own]) for _, row in pairs),
            grammars=grammars,
            synonyms=synonyms,
            ua=ua,
            generally=generally,
            ira=ira,
            cra=cra,
            ira_drop=paired_drop(*in_domain),
            cra_drop=paired_drop(*across),
            h_o=overall(ua, generally, ira.value, cra.value),
            near=neighbours(*({w: both[i] for w, both in strong.items()} for i in (0, 1)))
            if strong
            else None,
            near_drops={word: paired_drop(*both) for word, both in near.items()},
            weak=(*((concept,) if before.value < WEAK else ()), *weak),
            pairs=aligned[0],
            pairs_before=Share.of(pair[0]) if pair else None,
            pairs_drop=aligned[1],
            pairs_concept=Share.of(sides("pairs", "concept")[1]) if pair else None,
            drift_empty=max((values[0] for values in drifts), default=0.0),
            drift_negative=max((max(values[1:]) for values in drifts), default=0.0),
            drawn_drift=max(row.get("drawn_drift", {}).get("", 0.0) for row in rows),
            seconds=median(row.get("seconds", 0.0) for row in rows),
            peak_bytes=int(median(row.get("peak_bytes", 0) for row in rows)),
            file_bytes=max(row.get("file_bytes", 0) for row in rows),
            family=rows[0].get("family", BASE),
            notes=tuple(dict.fromkeys(note for row in rows for note in _notes(row))),
        )

    def results(self, method: str) -> list[Result]:
        """The method's results on all concepts that have one."""
        found = (self.result(concept, method) for concept in self.concepts)
        return [result for result in found if result is not None]


def _notes(row: Row) -> list[str]:
    return [f"{name}: {text}" for name, text in row.get("notes", {}).items() if name == "stand-in"]


def best_methods(rows: Sequence[Row], count: int = 3) -> tuple[str, ...]:
    """The methods of the highest median H_o over the concepts, the base left out."""
    table = Table(rows)
    medians = {
        method: median(result.h_o for result in results)
        for method in table.methods
        if method != BASE and (results := table.results(method))
    }
    return tuple(sorted(medians, key=lambda method: -medians[method])[:count])
