"""Who forgets the concepts of a list: this process, or a Ray cluster with a task for each."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ..errors import BadSettings, Cancelled, UnlearnError
from ..files.journal import Record
from ..forgetting.unlearn import UnlearnResult, unlearn
from ..loaders.demo_model import DEMOS
from ..loaders.diffusers_model import DiffusersModel, load_model
from ..lora.file import lora_bytes
from ..measuring.evaluation import evaluate
from ..measuring.judge import evaluation_judge
from ..measuring.scaled_encoder import ScaledEncoder
from ..progress import Progress, RunMonitor, SilentMonitor, stop_if_asked
from ..reporting.lines import headline
from ..reporting.report import report_files
from ..settings import UnlearnSettings
from .commands import Session
from .concepts import Entry

logger = logging.getLogger(__name__)

CPUS = 4
"""Of a task where the cluster has no GPU; fewer where no machine has as many."""
RETRIES = 3
"""Times that Ray starts a task again whose worker has died."""
SECONDS_BETWEEN_LOOKS = 1.0
INSTALL = "python -m pip install ray"


@dataclass(frozen=True)
class Order:
    """How every concept of a list is forgotten."""

    model: str
    """A demo model's name, or the absolute path of a folder or a file."""
    prediction: Literal["auto", "epsilon", "v"]
    preset: str
    settings: UnlearnSettings
    reports: bool

    def fingerprint(self, entry: Entry) -> str:
        """SHA-256 of all that decides what is trained; of the model its file's name."""
        return entry.fingerprint(f"{Path(self.model).name} {self.prediction}", self.settings)


@dataclass(frozen=True)
class Outcome:
    """What became of one concept."""

    entry: Entry
    record: Record
    """Its line in the journal; `error` in it says that it failed."""
    lora: bytes = b""
    report: dict[str, bytes] = field(default_factory=dict)
    """File name to content."""


Outcomes = Generator[Outcome, None, None]
Worker = Callable[[Order, Sequence[Entry], RunMonitor], Outcomes]
"""Forgets entries in any order and hands each over as it is done."""


@dataclass(frozen=True)
class Here:
    """Forgets one entry after the other in this process."""

    session: Session

    def __call__(self, order: Order, entries: Sequence[Entry], monitor: RunMonitor) -> Outcomes:
        """Hand over each as it is done; raises Cancelled."""
        model = self.session.load()
        for entry in entries:
            yield forget_entry(model, order, entry, monitor)


class RayWorker:
    """Forgets entries on a Ray cluster, see `Worker`.

    Every machine needs this checkout, the model and the pictures under the same paths. What is
    made comes back to this process, which alone writes.
    """

    def __init__(self, address: str | None) -> None:
        """The cluster's address; None is RAY_ADDRESS, the cluster of this machine, or a new one.

        Raises BadSettings, with the command that installs it, if there is no Ray.
        """
        try:
            import ray
        except ImportError as error:
            raise BadSettings(f"--ray needs Ray ({error}): {INSTALL}") from error
        self._ray: Any = ray
        self.address = address

    def __call__(self, order: Order, entries: Sequence[Entry], monitor: RunMonitor) -> Outcomes:
        """Hand over what is done in the order in which it is; raises BadSettings, Cancelled."""
        ray = self._ray
        try:
            ray.init(self.address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise BadSettings(f"There is no Ray cluster at {self.address}: {error}") from error
        try:
            task = ray.remote(max_retries=RETRIES, **self._share())(_forget_on_worker)
            waiting = {task.remote(order, entry): entry for entry in entries}
            while waiting:
                stop_if_asked(monitor)
                ready, _ = ray.wait(list(waiting), timeout=SECONDS_BETWEEN_LOOKS)
                for reference in ready:
                    yield self._outcome(order, waiting.pop(reference), reference)
                    done = len(entries) - len(waiting)
                    monitor.report(Progress("forgetting the list", done, len(entries)))
        finally:
            ray.shutdown()  # what still runs for this process ends with it

    def _outcome(self, order: Order, entry: Entry, reference: Any) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return failed(order, entry, getattr(error, "cause", None) or error)
        return outcome

    def _share(self) -> dict[str, int]:
        """What a task takes of a machine: a whole GPU if the cluster has any, or some cores."""
        if self._ray.cluster_resources().get("GPU", 0) >= 1:
            return {"num_gpus": 1, "num_cpus": 1}
        cores = [n["Resources"].get("CPU", 0) for n in self._ray.nodes() if n["Alive"]]
        return {"num_cpus": max(1, min(CPUS, int(max(cores, default=1))))}


def _forget_on_worker(order: Order, entry: Entry) -> Outcome:
    model = _model(order.model, order.prediction)
    return forget_entry(model, order, entry, SilentMonitor())


@lru_cache(maxsize=1)
def _model(name: str, prediction: Literal["auto", "epsilon", "v"]) -> DiffusersModel:
    """A worker serves many tasks and loads the model once."""
    return load_model(name, prediction)[0]


def forget_entry(model: DiffusersModel, order: Order, entry: Entry, monitor: RunMonitor) -> Outcome:
    """Forget one concept; whatever goes wrong with it is told in its record. Raises Cancelled."""
    started = time.monotonic()
    try:
        concept, settings = entry.read(order.settings), order.settings
        result = unlearn(model, concept, settings, monitor, measures=order.reports)
        result.check_moved()
        lora, report = _files(model, order, entry, result, monitor)
    except Cancelled:
        raise
    except Exception as error:
        if not isinstance(error, UnlearnError):
            logger.exception("%s could not be forgotten", entry.concept.name)
        return failed(order, entry, error)
    record = {
        **_beginning(order, entry),
        "file": f"{entry.stem}.safetensors",
        "sha256": hashlib.sha256(lora).hexdigest(),
        "stand_in": result.stand_in.word,
        "notes": list(result.notes),
        "seconds": round(time.monotonic() - started, 1),
    }
    return Outcome(entry, record, lora, report)


def failed(order: Order, entry: Entry, error: Exception) -> Outcome:
    """The outcome of a concept that could not be forgotten."""
    told = str(error) if isinstance(error, UnlearnError) else f"{type(error).__name__}: {error}"
    return Outcome(entry, {**_beginning(order, entry), "error": " ".join(told.split())})


def _beginning(order: Order, entry: Entry) -> Record:
    return {
        "concept": entry.concept.name,
        "task": order.fingerprint(entry),
        "preset": order.preset,
    }


def _files(
    model: DiffusersModel, order: Order, entry: Entry, result: UnlearnResult, monitor: RunMonitor
) -> tuple[bytes, dict[str, bytes]]:
    """The LoRA's file, and its report's where one is asked for."""
    if not order.reports:
        return lora_bytes(result.lora, entry.stem), {}
    forgotten = result.forgotten
    judge = evaluation_judge(forgotten.concept.kind) if order.model in DEMOS else None
    scaled = ScaledEncoder.with_lora(model, result.lora)
    evaluation = evaluate(model, forgotten, scaled, order.settings.seed, monitor, judge)
    lora = result.lora.noting(headline(evaluation))
    content = lora_bytes(lora, entry.stem)
    digest = hashlib.sha256(content).hexdigest()
    return content, report_files(evaluation, result, lora.metadata, digest)
