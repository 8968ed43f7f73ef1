"""A list of concepts on Ray: what is asked of it, and that a dead worker costs nothing."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unlearn_core import settings
from unlearn_core.__main__ import main
from unlearn_core.cli import workers
from unlearn_core.cli.concepts import Entry
from unlearn_core.cli.workers import Order, RayWorker
from unlearn_core.concept import Concept
from unlearn_core.errors import BadSettings, WrongModel
from unlearn_core.settings import UnlearnSettings

NAMES = ("dog", "cat", "apple", "car", "horse", "bee")
ORDER = Order("demo", "auto", "quick", UnlearnSettings(), False)


def test_without_ray_the_pip_command_is_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    path = tmp_path / "concepts.jsonl"
    path.write_text('{"concept": "dog"}\n', "utf-8")
    command = ["forget", "--model", "demo", "--list", str(path), "--out", str(tmp_path / "out")]
    assert main([*command, "--ray"]) == 1
    assert "--ray needs Ray" in (error := capsys.readouterr().err)
    assert error.endswith("python -m pip install ray\n")
    assert not (tmp_path / "out").exists()


class RayInName:
    """What `RayWorker` uses of Ray, done at once in this process."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            """Its base of all errors."""

    def __init__(self, *machines: dict[str, float]) -> None:
        self.machines, self.asked, self.is_up = machines, {}, False
        self.dies: tuple[str, ...] = ()

    def init(self, address: str | None, **_: Any) -> None:
        if address == "nowhere:1":
            raise ConnectionError("no answer")
        self.is_up = True

    def shutdown(self) -> None:
        self.is_up = False

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": sum(machine.get("GPU", 0) for machine in self.machines)}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": machine} for machine in self.machines]

    def remote(self, **asked: Any) -> Any:
        self.asked = asked
        return lambda _: SimpleNamespace(remote=lambda order, entry: entry.concept.name)

    def wait(self, references: list[str], timeout: float) -> tuple[list[str], list[str]]:
        return references[-1:], references[:-1]

    def get(self, reference: str) -> str:
        if reference in self.dies:
            error = self.exceptions.RayError("the worker died")
            if reference == "cat":
                error.cause = WrongModel("this is SD 1.x")  # type: ignore[attr-defined]
            raise error
        return f"what became of {reference}"


class Silent:
    shows_pictures = False

    def __init__(self) -> None:
        self.steps: list[int] = []

    def report(self, progress: Any) -> None:
        self.steps.append(progress.step)

    def should_stop(self) -> bool:
        return False


def worker_on(monkeypatch: pytest.MonkeyPatch, ray: RayInName, address: str | None = None) -> Any:
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    return RayWorker(address)


@pytest.mark.parametrize(
    ("machines", "share"),
    [
        ([{"CPU": 64, "GPU": 8}], {"num_gpus": 1, "num_cpus": 1}),
        ([{"CPU": 64}, {"CPU": 8, "GPU": 1}], {"num_gpus": 1, "num_cpus": 1}),
        ([{"CPU": 64}, {"CPU": 2}], {"num_cpus": 4}),
        ([{"CPU": 2}, {"CPU": 1}], {"num_cpus": 2}),
        ([{"CPU": 0}], {"num_cpus": 1}),
    ],
)
def test_a_task_asks_for_a_gpu_where_there_is_one_and_for_what_a_machine_has(
    monkeypatch: pytest.MonkeyPatch, machines: list[dict[str, float]], share: dict[str, int]
) -> None:
    ray = RayInName(*machines)
    assert list(worker_on(monkeypatch, ray)(ORDER, [], Silent())) == []
    assert ray.asked == {"max_retries": 3, **share}


def test_a_task_that_ray_gives_up_on_is_a_failed_concept_and_ray_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = RayInName({"CPU": 4})
    ray.dies = ("dog", "cat")
    entries = [Entry(Concept(name), None, "") for name in ("dog", "cat", "car")]
    monitor = Silent()
    outcomes = worker_on(monkeypatch, ray)(ORDER, entries, monitor)
    assert next(outcomes) == "what became of car"
    assert next(outcomes).record["error"] == "this is SD 1.x"
    assert ray.is_up
    assert next(outcomes).record["error"] == "RayError: the worker died"
    assert next(outcomes, None) is None
    assert monitor.steps == [1, 2, 3]
    assert not ray.is_up


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = worker_on(monkeypatch, RayInName({"CPU": 1}), "nowhere:1")
    with pytest.raises(BadSettings, match="no Ray cluster at nowhere:1: no answer"):
        next(worker(ORDER, [], Silent()))


# --- the real one ---------------------------------------------------------------------------------


def is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
        pid = int(status.split("PPid:")[1].split()[0])
    return False


def busy_workers() -> Iterator[int]:
    """Processes of this test's cluster that are forgetting something."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_busy = command.read_bytes().startswith(b"ray::_forget_on_worker")
            if is_busy and is_below(int(command.parent.name), os.getpid()):
                yield int(command.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue


@pytest.fixture
def two_workers() -> Iterator[str]:
    """The address of a cluster of two machines with one core each, both of them here."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the worker in /proc")
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray"
)
def test_a_killed_worker_loses_nothing_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_workers: str
) -> None:
    small = settings.PRESETS["quick"].replace(forget_prompts=8, keep_prompts=8, steps=20)
    monkeypatch.setitem(settings.PRESETS, "quick", small)
    monkeypatch.setattr(workers, "SECONDS_BETWEEN_LOOKS", 0.1)
    path, out = tmp_path / "concepts.jsonl", tmp_path / "out"
    path.write_text("".join(f'{{"concept": "{name}"}}\n' for name in NAMES), "utf-8")
    journal = out / "forgotten.jsonl"
    killed: list[int] = []

    def kill_one() -> None:
        """As soon as one concept is done, and while another is being forgotten."""
        deadline = time.monotonic() + 300
        while not killed and time.monotonic() < deadline:
            if journal.exists():
                for pid in busy_workers():
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    break
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    command = ["forget", "--model", "demo", "--preset", "quick", "--list", str(path)]
    command += ["--out", str(out)]
    assert main([*command, "--ray", two_workers]) == 0
    killer.join()
    assert len(killed) == 1
    records = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
    assert sorted(record["concept"] for record in records) == sorted(NAMES)
    for record in records:
        assert hashlib.sha256((out / record["file"]).read_bytes()).hexdigest() == record["sha256"]
    assert len(list(out.iterdir())) == len(NAMES) + 1
    written = journal.read_bytes()
    assert main(command) == 0  # without Ray: it finds that all is done
    assert journal.read_bytes() == written
