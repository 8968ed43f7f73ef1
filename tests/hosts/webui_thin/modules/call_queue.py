"""One job at a time."""

from __future__ import annotations

import html
import logging
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from modules import progress, shared

queue_lock = threading.Lock()
"""Not re-entrant, as the host's own."""


def wrap_gradio_gpu_call(
    func: Callable[..., Any], extra_outputs: list[Any] | None = None
) -> Callable[..., Any]:
    """As the hosts do it: the first argument may be a task's id, the last output is HTML."""

    @wraps(func)
    def wrapped(*args: Any) -> tuple[Any, ...]:
        task = args[0] if args and str(args[0]).startswith("task(") else None
        if task:
            progress.add_task_to_queue(task)
        try:
            with queue_lock:
                shared.state.begin(job=task or "")
                progress.start_task(task)
                try:
                    results = list(func(*args))
                finally:
                    progress.finish_task(task)
                shared.state.end()
        except Exception as error:
            logging.getLogger(__name__).exception("Error completing request: %s", args)
            results = [*(extra_outputs or [None, ""]), f"<div>{html.escape(str(error))}</div>"]
        finally:
            shared.state.interrupted = shared.state.stopping_generation = False
            shared.state.job, shared.state.job_count = "", 0
        results[-1] += "<div class='performance'>Time taken</div>"
        return tuple(results)

    return wrapped
