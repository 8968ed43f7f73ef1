"""Which tasks wait, work and are done; the page asks for them."""

from __future__ import annotations

import base64
import io
from typing import Any

from modules import shared

current_task: str | None = None
pending_tasks: list[str] = []
finished_tasks: list[str] = []


def add_task_to_queue(task: str) -> None:
    pending_tasks.append(task)


def start_task(task: str | None) -> None:
    global current_task
    current_task = task
    if task in pending_tasks:
        pending_tasks.remove(task)


def finish_task(task: str | None) -> None:
    global current_task
    current_task = None
    if task is not None:
        finished_tasks.append(task)


def record_results(_: str | None, __: Any) -> None:
    pass


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """What /internal/progress says."""
    state = shared.state
    task = question.get("id_task")
    share = 0.0
    if state.job_count > 0 and state.sampling_steps > 0:
        share = (state.job_no + state.sampling_step / state.sampling_steps) / state.job_count
    preview = None
    is_new = question.get("id_live_preview", -1) != state.id_live_preview
    if state.current_image is not None and is_new:
        buffer = io.BytesIO()
        state.current_image.save(buffer, "PNG")
        coded = base64.b64encode(buffer.getvalue()).decode()
        preview = f"data:image/png;base64,{coded}"
    return {
        "active": task is not None and task == current_task,
        "queued": task in pending_tasks,
        "completed": task in finished_tasks,
        "progress": min(share, 1.0),
        "eta": None,
        "live_preview": preview,
        "id_live_preview": state.id_live_preview,
        "textinfo": state.textinfo,
    }
