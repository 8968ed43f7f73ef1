"""A list of concepts on a Ray cluster: one task for each, the scheduling and the retries Ray's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from ..errors import BadSettings
from ..loaders.diffusers_model import DiffusersModel, load_model
from ..progress import Progress, RunMonitor, SilentMonitor, stop_if_asked
from .concept_list import Entry
from .forget_list import Order, Outcome, Outcomes, failed, forget_entry

CPUS = 4
"""Of a task where the cluster has no GPU; fewer where no machine has as many."""
RETRIES = 3
"""Times that Ray starts a task again whose worker has died."""
SECONDS_BETWEEN_LOOKS = 1.0
INSTALL = "python -m pip install ray"


class RayWorker:
    """Forgets entries on a Ray cluster, see `forget_list.Worker`.

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
