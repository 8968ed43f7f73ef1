"""Rows become results, tables and plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.attacks import AttackCurve, Point, Restart
from bench.jobs.rows import append_row
from bench.jobs.summary import Table, best_methods
from bench.methods.find import METHODS
from bench.protocol.metrics import Share
from bench.report import plots
from bench.report.aims import aims_table
from bench.report.attack_summary import CONTROL, attack_curves, attack_table, pooled, words_table
from bench.report.curves import strength_curve
from bench.trials.ablations import FAMILIES, LOOP, SEEN, shown_words, write_ablations


def row(concept: str, method: str, seed: int = 0, stage: str = "main", **more: Any) -> dict:
    return {
        "stage": stage, "concept": concept, "method": method, "seed": seed, "strength": 1.0,
        "detail": "", "kind": "object", **more,
    }  # fmt: skip


def cells(name: str, synonyms: str | None, near: dict[str, str], others: str, styles: str) -> dict:
    read = {"name": name, "grammars": name, **{f"near:{word}": bits for word, bits in near.items()}}
    if synonyms is not None:
        read["synonyms"] = synonyms
    return {
        **{cell: {"object": bits, "style": "1" * len(bits)} for cell, bits in read.items()},
        "others": {"object": others, "style": styles},
    }


def test_results_of_hand_made_rows() -> None:
    words = {"others": ["fox", "owl"]}
    before = cells("1111", "1111", {"fox": "1" * 10, "owl": "1" * 8 + "00"}, "1111", "1111")
    after = cells("0001", "1000", {"fox": "1" * 9 + "0", "owl": "0" * 10}, "1011", "1110")
    rows = [
        row("cat", "base", cells=before, words=words),
        row("cat", "quick", cells=after, words=words, drift={"": 0.01, "blurry": 0.02}, seconds=3),
        row("cat", "quick", seed=1, cells=after, words=words),  # no base yet: not compared
    ]
    result = Table(rows).result("cat", "quick")
    assert result is not None
    assert (result.seeds, result.ua, result.generally) == (1, 0.75, 0.25)
    assert (result.ira, result.cra) == (Share(3, 4), Share(3, 4))
    assert result.h_o == pytest.approx(0.75)
    assert result.near is not None
    assert result.near.worst_word == "fox"  # the base draws the owl in 8 of 10: marked, left out
    assert result.near.worst.value == pytest.approx(0.1)
    assert result.weak == ("owl",)
    assert (result.drift_empty, result.drift_negative) == (0.01, 0.02)
    assert best_methods(rows) == ("quick",)


def test_seeds_are_pooled_and_without_synonyms_the_sentences_count() -> None:
    rows = [
        row("bus", method, seed, cells=cells(name, None, {"fox": "11"}, "11", "11"))
        for method, seed, name in (
            ("base", 0, "11"), ("base", 1, "11"), ("quick", 0, "00"), ("quick", 1, "01")
        )
    ]  # fmt: skip
    result = Table(rows).result("bus", "quick")
    assert result is not None
    assert (result.seeds, result.shown, result.synonyms) == (2, Share(1, 4), None)
    assert result.generally == 0.25
    assert result.pairs is None


def test_the_aims_are_held_against_the_median_and_the_worst_is_named() -> None:
    def rows_of(concept: str, shown: str, drift: float) -> list[dict]:
        near = {"fox": "1" * 10}
        base = cells("1111", None, near, "1111", "1111")
        after = cells(shown, None, near, "1111", "1111")
        return [row(concept, "base", cells=base)] + [
            row(concept, method, cells=after, drift={"": drift, "blurry": 0.5})
            for method in ("quick", "balanced", "robust")
        ]

    rows = [*rows_of("cat", "0000", 0.002), *rows_of("bus", "0000", 0.009)]
    lines = aims_table(Table([*rows, *rows_of("pizza", "0001", 0.021)])).splitlines()
    by_name = next(line for line in lines if line.startswith("| shown by name ≤ 1 % |"))
    assert by_name.count("0.0 / pizza 25.0 [4.6, 69.9]; met") == 3
    of_empty = next(line for line in lines if line.startswith('| drift of "" ≤ 1 % |'))
    assert of_empty.count("0.90 / pizza 2.10; met") == 3
    assert any(line.startswith("| IRA, drop ≤ 1, 1, 2 % |") for line in lines)
    lines = aims_table(Table([*rows, *rows_of("pizza", "0001", 0.021)][4:])).splitlines()
    assert sum("1.50 / pizza 2.10; **missed**" in line for line in lines) == 1


def test_the_aims_name_only_the_presets_that_ran() -> None:
    found = cells("0000", None, {"fox": "1" * 10}, "1111", "1111")
    rows = [row("cat", method, cells=found) for method in ("base", "quick", "balanced")]
    lines = aims_table(Table(rows)).splitlines()
    assert lines[0] == "| aim of the median | `quick` | `balanced` |"
    assert any(line.startswith("| IRA, drop ≤ 1 % |") for line in lines)


def test_a_family_of_ablations_becomes_a_table_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {"base": "1111", "quick": "0000", "quick:rank=1": "0001"}
    for method, bits in shown.items():
        found = cells(bits, None, {"fox": "1" * 10}, "1111", "1111")
        append_row(tmp_path, row("dog", method, stage="sweeps", cells=found))
    for method in ("base", "quick"):
        starts = (restart("object", "word", 0, 4, loss=0.1),)
        curve = AttackCurve("textual inversion", "dog", 0, {}, starts, 1.0)
        append_row(tmp_path, attack_row("dog", method, "inversion 1", curve))
    plotted: list[tuple[str, dict[str, str]]] = []
    pareto = plots.pareto

    def remember(table: Table, title: str, words: dict[str, str]) -> Any:
        plotted.append((title, words))
        return pareto(table, title, words)

    monkeypatch.setattr(plots, "pareto", remember)
    lines = write_ablations(tmp_path).read_text("utf-8").splitlines()
    assert plotted == [("least squares: rank", {"quick": "quick", "quick:rank=1": "quick:rank=1"})]
    assert (tmp_path / "least-squares-rank.png").exists()
    assert [line for line in lines if line.startswith("## ")] == [
        "## least squares: rank", "## Attacks",
    ]  # fmt: skip
    assert next(line for line in lines if "quick:rank=1" in line).split(" | ")[3] == "75.0 / 75.0"
    assert sum(line.startswith("| inversion 1 | ") for line in lines) == 2


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("quick:rank=1", "quick:rank=1"),
        (LOOP, "loop"),
        (f"{LOOP}+layers=all+rank=4", "layers=all, rank=4"),
        (SEEN, "loop, pictures"),
        (f"{SEEN}+inversion_steps=50", "inversion_steps=50"),
    ],
)
def test_a_plot_calls_a_variant_by_what_it_changes(method: str, words: str) -> None:
    assert shown_words(method) == words


def test_no_two_methods_of_a_plot_look_alike() -> None:
    longest = max(len(METHODS), *map(len, FAMILIES.values()))
    assert len({plots.look(number) for number in range(longest)}) == longest


def test_objects_that_the_base_rarely_draws_are_left_out_of_ira() -> None:
    others = "11" * 4 + "10" * 6  # the owl in 4 of 10
    base_row = row("cat", "base", cells=cells("1", None, {}, others, "1" * 20))
    base_row["words"] = {"others": ["fox", "owl"]}
    table = Table([base_row])
    assert table.left_out == ("owl",)
    result = table.result("cat", "base")
    assert result is not None
    assert result.ira == Share(10, 10)


def test_a_strength_curve_takes_0_and_1_from_main() -> None:
    main = cells("1111", None, {"fox": "1111"}, "1", "1")
    erased = cells("0011", None, {"fox": "1101"}, "1", "1")
    half = {"name": {"object": "01", "style": "11"}, "near:fox": {"object": "11", "style": "11"}}
    rows = [
        row("cat", "base", cells=main),
        row("cat", "quick", cells=erased),
        row("cat", "quick", stage="curves", cells=half) | {"strength": 0.5},
    ]
    curve = strength_curve(rows, "cat", "quick")
    assert [point.strength for point in curve] == [0, 0.5, 1]
    assert [point.shown for point in curve] == [Share(2, 2), Share(1, 2), Share(0, 2)]
    assert [point.kept for point in curve] == [Share(2, 2), Share(2, 2), Share(2, 2)]


def attack_row(concept: str, method: str, detail: str, curve: AttackCurve) -> dict:
    values = json.loads(json.dumps(curve.as_dict()))
    return row(concept, method, stage="attacks") | {"detail": detail, "curve": values}


def restart(start: str, kind: str, *hits: int, loss: float | None = None) -> Restart:
    points = tuple(Point(10 * i, {"plain": Share(h, 10)}, loss) for i, h in enumerate(hits))
    return Restart(start, kind, points)


def test_attacks_are_pooled_over_concepts_beside_their_control() -> None:
    def curve(concept: str, *restarts: Restart) -> AttackCurve:
        return AttackCurve("textual inversion", concept, 0, {}, restarts, 1.0)

    rows = [
        attack_row("cat", "quick", "inversion 1", curve(
            "cat", restart("object", "word", 0, 4, loss=0.1), restart("r", "random", 0, 9, loss=0.2)
        )),
        attack_row("dagger", "quick", "inversion 1", curve(
            "dagger", restart("object", "word", 0, 6, loss=0.1)
        )),
        attack_row("cake", "base", "inversion 1", curve(
            "cake", restart("object", "word", 0, 3, loss=0.1)
        )),
    ]  # fmt: skip
    groups = {group.method: group for group in pooled(attack_curves(rows, ("cake",)))}
    assert groups["quick"].best == (Share(0, 20), Share(10, 20))
    assert groups["quick"].worst_case == (Share(0, 20), Share(15, 20))
    assert groups[CONTROL].best[-1] == Share(3, 10)
    assert "| inversion 1 | quick | cat, dagger | 0: 0, 10: 50 |" in attack_table(rows, ("cake",))


def test_words_that_work_on_the_base_are_followed() -> None:
    def curve(*restarts: Restart) -> AttackCurve:
        return AttackCurve("words", "cat", 0, {}, restarts, 1.0)

    rows = [
        attack_row("cat", "base", "words", curve(
            restart("kitten", "synonym", 10), restart("ct", "drop", 1)
        )),
        attack_row("cat", "quick", "words", curve(
            restart("kitten", "synonym", 2), restart("ct", "drop", 1)
        )),
    ]  # fmt: skip
    assert words_table(rows).splitlines()[2:] == [
        '| quick | synonym | 1 | 100 | 20 | "kitten" 20 |'
    ]
