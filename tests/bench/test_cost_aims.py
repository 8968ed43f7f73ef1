"""What a run may cost: aims held against numbers; a measurement that goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.cost import cost_aims, full_size
from bench.cost.cost_aims import (
    OTHERS,
    WITH_UNET,
    aims_table,
    at_full_size,
    at_size_of,
    beside,
    is_whole,
    measures,
    on_demo,
    with_unet,
)
from bench.demo_cost import many_concepts
from bench.demo_cost.many_concepts import compared
from bench.methods.find import find_method

Numbers = dict[str, Any]


def run_of(concepts: int, seconds: float, extra: float = 1.2e9, ratio: float = 2.0) -> Numbers:
    return {
        "concept": ",".join(["dog"] * concepts), "seconds": seconds, "ratio": ratio,
        "extra_bytes": extra, "stages": [{"name": "all", "seconds": seconds, "floor_seconds": 1.0}],
    }  # fmt: skip


def demo_run(seconds: float, h_o: float) -> Numbers:
    names = [f"thing {number}" for number in range(20)]
    judged = {
        "k": 20, "seconds": seconds, "ira": 0.9, "cra": 0.9,
        "shown": dict.fromkeys(names, 0.0), "h_o": dict.fromkeys(names, h_o),
    }  # fmt: skip
    alone = {name: {"seconds": 2.0, "h_o": 0.9} for name in names}
    return {"seed": 3, "alone": alone, "together": [judged]}


def side_run(**seconds: float) -> Numbers:
    """Two objects, of which the second takes twice as long."""
    names = ("uce", "esd", "concept_ablation", "quick", "balanced")
    judged = {"ira": 0.9, "cra": 0.8, "shown": 0.1, "h_o": 0.7}
    methods = {}
    for name in names:
        taken = seconds.get(name, 2.0)
        methods[name] = {"cat": judged | {"seconds": taken}, "bus": judged | {"seconds": 2 * taken}}
    return {"seed": 3, "methods": methods}


@pytest.fixture
def parts() -> dict[str, Numbers]:
    return {
        at_full_size(1): run_of(1, 20.0),
        at_full_size(20): run_of(20, 160.0, extra=1.5e9),
        with_unet("balanced"): {"extra_bytes": 2e9, "unet_bytes": 4e9},
        on_demo(3): demo_run(16.0, h_o=0.88),
    }


def verdicts(parts: dict[str, Numbers]) -> list[tuple[str, str]]:
    rows = [line.strip("| ").split(" | ") for line in aims_table(parts).splitlines()[2:]]
    return [(row[2], row[3]) for row in rows]


def test_every_part_is_held_against_its_aims(parts: dict[str, Numbers]) -> None:
    assert verdicts(parts) == [
        ("20.0 s", "met"), ("2.0", "met"), ("1.2 GB", "met"), ("0.50", "met"),
        ("0.40", "met"), ("1.5 GB", "met"), ("0.40", "met"), ("2.0 points", "met"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("part", "worse", "missed"),
    [
        (at_full_size(1), {"seconds": 51.0}, ["51.0 s"]),
        (at_full_size(1), {"ratio": 2.1}, ["2.1"]),
        (at_full_size(1), {"extra_bytes": 1.7e9}, ["1.7 GB"]),
        (at_full_size(20), {"seconds": 210.0}, ["0.53"]),
        (with_unet("balanced"), {"extra_bytes": 4.4e9}, ["1.10"]),
        (beside(3), side_run(uce=1.0, esd=4.0, balanced=3.0), ["2.00", "1.50"]),
        (on_demo(3), demo_run(22.0, h_o=0.86), ["0.55", "4.0 points"]),
    ],
)
def test_what_is_missed_is_said(
    parts: dict[str, Numbers], part: str, worse: Numbers, missed: list[str]
) -> None:
    parts[part] = parts.get(part, {}) | worse
    assert [found for found, verdict in verdicts(parts) if verdict == "**missed**"] == missed


def test_there_is_a_part_for_every_aim() -> None:
    others = [at_size_of(family) for family, _, _ in OTHERS]
    demo = [beside(4), on_demo(4)]
    expected = [at_full_size(1), at_full_size(20), *others, *map(with_unet, WITH_UNET), *demo]
    assert list(measures((1, 20), (4,))) == expected
    for name, method in WITH_UNET.items():
        assert find_method(method).name == name


def test_parts_that_are_not_there_have_no_row(parts: dict[str, Numbers]) -> None:
    assert verdicts({at_full_size(20): parts[at_full_size(20)]}) == []
    assert len(verdicts({at_full_size(1): parts[at_full_size(1)]})) == 3


def test_one_run_is_compared_with_as_many_single_ones() -> None:
    judged = {"k": 4, "seconds": 4.0, "h_o": {"dog": 0.8, "cat": 0.7, "bus": 0.1, "bee": 0.1}}
    alone = {"dog": {"seconds": 3.0, "h_o": 0.9}, "cat": {"seconds": 1.0, "h_o": 0.6}}
    assert compared(judged, alone) == pytest.approx((4.0 / (4 * 2.0), 0.0))


def test_a_second_start_measures_what_is_missing(
    parts: dict[str, Numbers],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done: list[str] = []
    broken = {on_demo(3)}

    def measure_of(name: str) -> Callable[[], Numbers]:
        def measure() -> Numbers:
            if name in broken:
                raise KeyboardInterrupt
            done.append(name)
            return parts[name]

        return measure

    monkeypatch.setattr(
        cost_aims, "measures", lambda heights, seeds: {name: measure_of(name) for name in parts}
    )
    monkeypatch.setattr(full_size, "as_text", lambda numbers: f"stages of {numbers['concept']}")
    parts[beside(3)] = side_run()
    words = ["--out", str(tmp_path), "--heights", "1,20"]
    with pytest.raises(KeyboardInterrupt):
        cost_aims.main(words)
    assert done == list(parts)[:3]
    broken.clear()
    cost_aims.main(words)
    assert done == list(parts)
    assert json.loads((tmp_path / "cost.json").read_text("utf-8")) == parts
    assert (tmp_path / "aims.md").read_text("utf-8") == aims_table(parts) + "\n"
    assert aims_table(parts) in capsys.readouterr().out
    assert (tmp_path / "stages.txt").read_text("utf-8") == "stages of dog\n"
    assert "of `quick`" in (tmp_path / "methods.md").read_text("utf-8")
    for plot in ("full-size-quick.png", "many.png"):
        assert (tmp_path / plot).stat().st_size > 1000


def test_a_part_on_the_demo_model_is_whole_with_all_heights() -> None:
    assert not is_whole(None, [1])
    assert is_whole(run_of(5, 20.0), [1, 20])
    assert is_whole(demo_run(16.0, h_o=0.9), [20])
    assert not is_whole(demo_run(16.0, h_o=0.9), [1, 20])


def test_the_plot_has_a_panel_for_sd2s_size_where_it_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    panels: list[int] = []
    monkeypatch.setattr(many_concepts, "save", lambda figure, path: panels.append(len(figure.axes)))
    many_concepts.save_plot([demo_run(16.0, 0.9)], tmp_path / "a.png")
    many_concepts.save_plot([demo_run(16.0, 0.9)], tmp_path / "a.png", {1: 20.0, 20: 160.0})
    assert panels == [2, 3]
