"""A run inside the WebUI: its queue, its progress bar and Interrupt, and the model for one run."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from modules import call_queue, devices, progress, shared

from unlearn_core.files.pictures import preview_image
from unlearn_core.progress import Progress

from ..job import Job
from .checkpoint import lend, load
from .settings import memory_limit
from .webui_model import WebuiModel, memory_explained

_PREVIEW_EDGE = 512


class WebuiMonitor:
    """Shows a run in the host's progress bar and live preview; heeds Stop and Interrupt."""

    def __init__(self, job: Job, stages: Sequence[str], shows_pictures: bool) -> None:
        """`stages` are those that are expected, in order; others are added as they come."""
        self.shows_pictures = shows_pictures and bool(
            getattr(shared.opts, "live_previews_enable", True)
        )
        self._job = job
        self._stages = list(stages)
        self._tell("preparing: the model, the words, a stand-in")

    def report(self, progress: Progress) -> None:
        """Move the bar; say stage, step, loss and time left; show the preview."""
        state = shared.state
        if progress.total:
            if progress.stage not in self._stages:
                self._stages.append(progress.stage)
            # Set again each time: other tabs' calls reset the host's state.
            state.job_count = len(self._stages)
            state.job_no = self._stages.index(progress.stage)
            state.sampling_steps, state.sampling_step = progress.total, progress.step
        if progress.preview is not None:
            state.assign_current_image(preview_image(progress.preview, _PREVIEW_EDGE))
        self._job.progress = progress
        self._tell(progress.in_words())

    def should_stop(self) -> bool:
        """Whether Stop was pressed here, or Interrupt anywhere in the host."""
        state = shared.state
        if state.interrupted or getattr(state, "stopping_generation", False):
            self._job.stop()
        return self._job.stopped

    def _tell(self, text: str) -> None:
        shared.state.textinfo = text
        shared.state.job_count = max(1, len(self._stages))


def queued_from_tab(work: Callable[..., Any], on_error: list[Any]) -> Callable[..., Any]:
    """`work` as a gradio callback that waits for its turn; its first argument is the task's id.

    It must return a sequence that ends with HTML; `on_error` is what comes before the host's own
    error text, should `work` raise after all.
    """
    wrapped: Callable[..., Any] = call_queue.wrap_gradio_gpu_call(work, extra_outputs=on_error)
    return wrapped


@contextmanager
def queued(task: str) -> Iterator[None]:
    """Hold the host's queue for a task of the API, and let its page see the progress."""
    progress.add_task_to_queue(task)
    with call_queue.queue_lock:
        state = shared.state
        state.begin(job=task)
        progress.start_task(task)
        try:
            yield
        finally:
            progress.finish_task(task)
            state.interrupted = state.stopping_generation = False
            state.end()


@contextmanager
def borrowed() -> Iterator[WebuiModel]:
    """The loaded checkpoint for one run, bare of LoRAs; the host's model as it was afterwards.

    LoRAs and hypernetworks come back by themselves: the host reads them from each prompt. Call it
    with the queue lock held. Raises WrongModel, and TrainingFailed when memory runs out.
    """
    model = lend(load())
    model.memory_limit = int(memory_limit() * 2**30)
    try:
        with torch.inference_mode(False), torch.enable_grad(), _memory_capped(), memory_explained():
            _forget_networks()
            model.make_bare()
            with model.prepared():
                yield model
    finally:
        gc.collect()
        devices.torch_gc()


def _forget_networks() -> None:
    """No LoRA and no hypernetwork is active; their weights go with `make_bare`."""
    networks: Any = sys.modules.get("networks")  # the host's Lora extension, under its bare name
    if hasattr(networks, "load_networks"):
        networks.load_networks([], [], [])
    getattr(shared, "loaded_hypernetworks", []).clear()  # Forge Neo knows none


@contextmanager
def _memory_capped() -> Iterator[None]:
    """Inside, this process takes no more GPU memory than the settings allow."""
    limit = memory_limit() * 2**30
    device = torch.device(devices.device)
    if not limit or device.type != "cuda":
        yield
        return
    index = torch.cuda.current_device() if device.index is None else device.index
    total = torch.cuda.get_device_properties(index).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)
