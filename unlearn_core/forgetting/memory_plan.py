"""How a run fits into memory: estimated before it starts, compared with what was used after."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NotEnoughMemory, WrongModel
from ..models.denoising import BATCH_PIXELS
from ..models.lent_model import LentModel
from ..settings import preset
from ..text.text_encoder import weights_of
from ..text.tower_encoder import last_layer_of
from ..training.inversion import TEST_PICTURES
from ..training.preview import NEIGHBOURS_SHOWN
from ..training.terms import BATCH_PICTURES
from ..words.stand_in import pictures_to_draw
from .memory_estimate import DRAWING, TextSizes, UnetUse, Workload, estimate, learns

logger = logging.getLogger(__name__)

TOKEN_TABLE = "text_model.embeddings.token_embedding.weight"
FIRST_EXPANSION = "text_model.encoder.layers.0.mlp.fc1.weight"

CHECKPOINT_FROM = 64
"""Edge of latents from which blocks are run again where free memory is not known."""


@dataclass(frozen=True)
class MemoryPlan:
    """How a run uses the UNet, and what it is expected to take."""

    needed: int
    """Bytes beside the lent model, at most."""
    stage: str
    """What most of them are needed for."""
    complete: bool
    """Whether the UNet's part is in it; False where its sizes are not known."""
    free: int | None
    """Bytes that were free before; None where that is not known."""
    asked_rows: int
    """Pictures with a gradient in one step; 0: the UNet is not differentiated."""
    rows: int
    """How many of them go through the UNet together."""
    drawn: int
    """The same without a gradient; 0: no limit."""
    checkpointing: bool
    """Whether the UNet's blocks are run again on the way back."""

    def in_words(self) -> str:
        """On one line."""
        words = [f"about {gigabytes(self.needed)} beside the model, most of it for {self.stage}"]
        if not self.complete:
            words.append("without the UNet's part, which is not known")
        if self.free is not None:
            words.append(f"{gigabytes(self.free)} free")
        if self.rows < self.asked_rows:
            words.append(f"{self.asked_rows} pictures in parts of {self.rows}")
        if self.checkpointing:
            words.append("gradient checkpointing")
        return "; ".join(words)

    @contextmanager
    def followed(self, model: LentModel) -> Iterator[None]:
        """Have `model` compute as planned; its own way comes back after."""
        own = model.checkpointing
        model.checkpointing = self.checkpointing
        try:
            yield
        finally:
            model.checkpointing = own


@dataclass(frozen=True)
class MemoryReport:
    """What was expected and what was used."""

    plan: MemoryPlan
    used: int | None
    """Most bytes beside the lent model; None where torch can't tell."""

    def in_words(self) -> str:
        """On one line."""
        expected = f"estimated {self.plan.in_words()}"
        return expected if self.used is None else f"{expected}; used {gigabytes(self.used)}"


class MemoryMeter:
    """Tells what was free before a run and what it took; on CUDA only the latter is known."""

    def __init__(self, model: LentModel) -> None:
        """Start to measure."""
        self.free = model.free_memory()
        self._device = model.device
        self._before = 0
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)

    def report(self, plan: MemoryPlan) -> MemoryReport:
        """Up to here."""
        if self._device.type != "cuda":
            return MemoryReport(plan, None)
        return MemoryReport(plan, torch.cuda.max_memory_allocated(self._device) - self._before)


def text_sizes(model: LentModel, weights: Mapping[str, Tensor]) -> list[TextSizes]:
    """Of the copy that will be made of lent weights; raises WrongModel if they are of no CLIP."""
    sizes = []
    for tower, conditioning in zip(model.family.towers, model.conditioning_layers, strict=True):
        own = weights_of(tower, weights)
        table, first = (own.get(name) for name in (TOKEN_TABLE, FIRST_EXPANSION))
        if table is None or first is None:
            raise WrongModel("The text encoder is not a CLIP text model: its weights are missing.")
        layers, half = last_layer_of(tower, own, conditioning) + 1, first.element_size() < 4
        pooling = layers - 1 - conditioning
        vocabulary, width = table.shape
        sizes.append(
            TextSizes(vocabulary, width, first.shape[0], layers, half, pooling, tower.part)
        )
    return sizes


def plan_memory(
    model: LentModel, text: Sequence[TextSizes], work: Workload, free: int | None
) -> MemoryPlan:
    """The fastest way to use the UNet that fits into `free` bytes.

    First fewer pictures go through the UNet together, down to one; then its blocks run again on
    the way back. Raises NotEnoughMemory if nothing fits.
    """
    asked, drawn = _asked_rows(work), _drawn(work, model)
    draws = bool(asked or drawn or work.measures)
    known = model.unet_sizes is not None or not draws

    def stages(rows: int, checkpointing: bool, shown: int) -> dict[str, int]:
        use = None
        if model.unet_sizes is not None and draws:
            width = model.compute_dtype.itemsize
            pictures = bool(asked or work.previews or work.finds_name or work.measures)
            use = UnetUse(
                model.unet_sizes, model.native_size, width, rows, shown, checkpointing, pictures
            )
        return estimate(text, use, work)

    if free is not None:
        fitting = (shown for shown in _halves(drawn) if stages(0, False, shown)[DRAWING] <= free)
        drawn = next(fitting, min(drawn, 1)) if known and drawn else drawn
    plan = None
    for rows, checkpointing in _ways(asked, model.native_size, free):
        held = stages(rows, checkpointing, drawn)
        stage = max(held, key=lambda name: held[name])
        plan = MemoryPlan(held[stage], stage, known, free, asked, rows, drawn, checkpointing)
        if free is None or plan.needed <= free:
            logger.info("memory: %s", plan.in_words())
            return plan
    assert plan is not None
    raise NotEnoughMemory(_refusal(plan, text, work.concepts))


def rows_that_fit(model: LentModel, asked: int) -> int:
    """How many pictures may go through the UNet together when nothing but drawing is done."""
    free = model.free_memory()
    if free is None or model.unet_sizes is None:
        return asked
    edge = model.native_size // 8
    one = model.unet_sizes.drawing(edge, edge) * model.compute_dtype.itemsize
    return min(asked, max(1, free // (2 * one)))  # half is left for what else the caller holds


def gigabytes(size: int) -> str:
    """For a sentence: 1 GB is 10^9 bytes."""
    return f"{size / 1e9:.1f} GB"


def _asked_rows(work: Workload) -> int:
    learning = work.settings.inversion_batch if learns(work.settings, work.pictures) else 0
    return max(learning, BATCH_PICTURES if work.settings.needs_pictures else 0)


def _drawn(work: Workload, model: LentModel) -> int:
    """Pictures that go through the UNet together without a gradient.

    What is drawn counts twice, with and without its prompt; what is read for a name once.
    """
    testing = TEST_PICTURES if learns(work.settings, work.pictures) else 0
    seen = 1 + NEIGHBOURS_SHOWN if work.previews else 0
    read = max(1, BATCH_PIXELS // (model.native_size // 8) ** 2) if work.finds_name else 0
    return max(2 * max(pictures_to_draw(work.settings, model), testing, seen), read)


def _ways(asked: int, native_size: int, free: int | None) -> Iterator[tuple[int, bool]]:
    """(pictures with a gradient at once, whether blocks run again), the fastest first."""
    if asked == 0 or free is None:
        yield asked, asked > 0 and native_size // 8 >= CHECKPOINT_FROM
        return
    for checkpointing in (False, True):
        yield from ((rows, checkpointing) for rows in _halves(asked))


def _halves(count: int) -> Iterator[int]:
    """`count`, then half of it, down to 1; 0 alone stays 0."""
    yield count
    while count > 1:
        count //= 2
        yield count


def _refusal(plan: MemoryPlan, text: Sequence[TextSizes], concepts: int) -> str:
    ways = " even with one picture at a time" if plan.asked_rows or plan.drawn else ""
    ways += " and gradient checkpointing" if plan.checkpointing else ""
    quick = max(estimate(text, None, Workload(preset("quick"), concepts=concepts)).values())
    advice = "Free some memory (close other programs, unload other models)"
    if quick < plan.needed:
        advice += f", or choose the preset quick, which needs {gigabytes(quick)}"
    assert plan.free is not None
    return (
        f"Not enough memory: this run needs about {gigabytes(plan.needed)} beside the model{ways}, "
        f"most of it for {plan.stage}, and {gigabytes(plan.free)} are free. {advice}."
    )
