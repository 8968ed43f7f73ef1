"""Runs that wait or work, shared between the threads that run, stop and watch them."""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from unlearn_core.progress import Progress

_REMEMBERED = 64


class Job:
    """One run, from the click to its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.progress: Progress | None = None
        """The last report; None before the first one."""
        self.works = False
        """Whether it has the queue; before that it waits."""
        self._stop = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether someone wants it to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask it to stop; it will within one step."""
        self._stop.set()


class Jobs:
    """Every run of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, Job] = {}
        self._stopped_early: deque[str] = deque(maxlen=_REMEMBERED)

    @contextmanager
    def enter(self, name: str = "") -> Iterator[Job]:
        """A new job, known to the others inside; one that was stopped before it came is stopped."""
        job = Job(name or uuid.uuid4().hex)
        with self._lock:
            if job.name in self._stopped_early:
                job.stop()
            self._running[job.name] = job
        try:
            yield job
        finally:
            with self._lock:
                self._running.pop(job.name, None)

    def stop(self, name: str) -> None:
        """Stop the job of this name, even if it still waits in the host's queue unseen."""
        with self._lock:
            job = self._running.get(name)
            if job is not None:
                job.stop()
            elif name:
                self._stopped_early.append(name)

    def stop_all(self) -> int:
        """Stop every job, working or waiting; how many there were."""
        with self._lock:
            for job in self._running.values():
                job.stop()
            return len(self._running)

    def all(self) -> list[Job]:
        """The working job first, then those that wait, in the order of their coming."""
        with self._lock:
            return sorted(self._running.values(), key=lambda job: not job.works)


JOBS = Jobs()
"""Those of the tab and of the API."""
