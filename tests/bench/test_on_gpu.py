"""What a CUDA device has to show, tried as far as a CPU can: aims, profile, the tests' own run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import install
from bench.cost import on_gpu
from bench.cost.on_gpu import AIMS, aims_table, engine_tests, main
from bench.methods.find import find_method
from unlearn_core.errors import BadSettings


def verdicts(**changed: tuple[float, float]) -> list[str]:
    """Of runs that take (seconds, floor), every other one 1.0 and 0.5."""
    pairs = dict.fromkeys(AIMS, (1.0, 0.5)) | changed
    found = {name: {"seconds": s, "floor_seconds": floor} for name, (s, floor) in pairs.items()}
    return [line.strip("| ").rpartition("| ")[2] for line in aims_table(found).splitlines()[2:]]


def test_each_preset_is_held_against_seconds_and_floor() -> None:
    assert verdicts() == ["met"] * 3
    assert verdicts(quick=(2.1, 1.0)) == ["**missed**", "met", "met"]
    assert verdicts(quick=(1.9, 0.1)) == ["met"] * 3
    assert verdicts(balanced=(14.0, 4.0)) == ["met", "**missed**", "met"]
    assert verdicts(balanced=(16.0, 8.0)) == ["met", "**missed**", "met"]


def test_what_is_measured_are_methods() -> None:
    methods = [find_method(method) for method in (*AIMS, on_gpu.PROFILED)]
    assert [method.name for method in methods] == [*AIMS, "balanced"]  # type: ignore[attr-defined]


def test_the_tests_are_run_and_ended_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "IN_PARALLEL", ())
    monkeypatch.setattr(install, "ENGINE", ("--version",))
    assert engine_tests().startswith("pytest")
    monkeypatch.setattr(on_gpu, "MOST_SECONDS_OF_TESTS", 0.01)
    assert engine_tests() == "not ended after 0.01 s\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_cuda_device_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="no CUDA device"):
        main(["--out", str(tmp_path / "numbers")])
    assert not (tmp_path / "numbers").exists()
