"""A run inside ComfyUI: gradients, progress and interruption, and the host as it was before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as management
import comfy.utils
import torch
from comfy.model_base import SDXL
from server import PromptServer

from ..unlearn_core.errors import Cancelled, TrainingFailed
from ..unlearn_core.files.pictures import preview_image
from ..unlearn_core.progress import Progress
from ..unlearn_core.settings import presets_where
from .comfy_dynamic import static

TRAINING_MEMORY = 4
"""Memory of a step with gradient over ComfyUI's estimate for sampling; an estimate too."""
_PREVIEW_EDGE = 400
_LARGEST_EDGE = 1024
_SECONDS_BETWEEN_TEXTS = 0.2


class ComfyMonitor:
    """Shows progress on the node and asks ComfyUI whether the user wants to stop."""

    shows_pictures = False
    """May be set until the run begins."""

    def __init__(self, node_id: str) -> None:
        """Say at once that the node works; its first report may take a while."""
        self._node_id = node_id
        self._bar = comfy.utils.ProgressBar(1)
        self._stage = ""
        self._last_text = 0.0
        self._say("starting")

    def report(self, progress: Progress) -> None:
        """Move the node's bar, write step and loss below it, show the preview."""
        preview = None
        if progress.preview is not None:
            preview = ("JPEG", preview_image(progress.preview, _PREVIEW_EDGE), _LARGEST_EDGE)
        if progress.total:
            self._bar.update_absolute(progress.step, progress.total, preview)
        if progress.stage != self._stage:
            self._stage, self._last_text = progress.stage, 0.0
        now = time.monotonic()
        if now - self._last_text > _SECONDS_BETWEEN_TEXTS or progress.step == progress.total:
            self._last_text = now
            self._say(progress.in_words())

    def should_stop(self) -> bool:
        """Whether Interrupt was pressed."""
        return bool(management.processing_interrupted())

    def _say(self, text: str) -> None:
        """Write on the node, for the user alone who asked for this run."""
        server = PromptServer.instance
        if server.client_id is not None:
            server.send_progress_text(text, self._node_id, server.client_id)


def room_for(model: Any) -> int | None:
    """Bytes of a GPU beside the weights of MODEL once ComfyUI has put all others away."""
    device = model.load_device
    if device.type != "cuda":
        return None
    loaded = [m for m in management.current_loaded_models if m.device == device and m.model]
    free = management.get_free_memory(device) + sum(m.model_loaded_memory() for m in loaded)
    return max(0, int(free - model.model_size()))


@contextmanager
def training_allowed(clip: Any, model: Any = None) -> Iterator[None]:
    """Gradients inside a node, and the host as it was afterwards, whatever happens.

    Turns Cancelled into ComfyUI's own interruption and running out of memory into TrainingFailed.
    """
    unet = None if model is None else static(model).model
    cast = unet.manual_cast_dtype if unet is not None else None
    flags = _cast_flags(unet)
    trained_before = getattr(management, "in_training", None)
    if trained_before is not None:  # newer hosts then leave their shared cast buffers alone
        management.in_training = True
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    except Cancelled as error:
        management.interrupt_current_processing(False)
        raise management.InterruptProcessingException() from error
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingFailed(
            f"Out of memory{_in_numbers(model)}. Lower inversion_batch, batch_size or "
            "stand_in_pictures in Unlearning Settings, or choose the preset "
            f"{presets_where(needs_unet=False)}, which needs no MODEL. Nothing was changed."
        ) from error
    finally:
        if trained_before is not None:
            management.in_training = trained_before
        if unet is not None:
            unet.manual_cast_dtype = cast
        for part, flag in flags:
            part.comfy_cast_weights = flag
        management.soft_empty_cache()


def _in_numbers(model: Any) -> str:
    if model is None:
        return ""
    pictures, edge = 8, 128 if isinstance(model.model, SDXL) else 64
    needed = TRAINING_MEMORY * model.memory_required([pictures, 4, edge, edge]) / 2**30
    there = management.get_total_memory(model.load_device) / 2**30
    return (
        f" on {model.load_device}, which has {there:.1f} GB: a step with {pictures} pictures of "
        f"{8 * edge} pixels needs about {needed:.1f} GB beside the weights"
    )


def _cast_flags(unet: Any) -> list[tuple[Any, bool]]:
    parts = unet.modules() if unet is not None else ()
    return [(p, p.comfy_cast_weights) for p in parts if hasattr(p, "comfy_cast_weights")]
