"""A run from the request to its files and numbers; tab and API both call it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image

from unlearn_core.concept import Nameless
from unlearn_core.errors import Cancelled, UnlearnError
from unlearn_core.files.output_files import check_writable
from unlearn_core.forgetting.unlearn import UnlearnResult, unlearn
from unlearn_core.measuring.drawing import draw_after
from unlearn_core.measuring.evaluation import Evaluation, evaluate
from unlearn_core.measuring.scaled_encoder import ScaledEncoder
from unlearn_core.models.lent_model import LentModel, Stoppable
from unlearn_core.progress import (
    DRAWING_BEFORE_AND_AFTER,
    DRAWING_THE_STRENGTH_CURVE,
    FORGETTING,
    LEARNING,
    PREPARING,
    READING_PICTURES,
    Progress,
    stop_if_asked,
)
from unlearn_core.reporting.lines import headline, main_numbers, run_lines
from unlearn_core.reporting.sheets import HIDDEN_KINDS, contact_sheet

from .host import files as host_files
from .host.checkpoint import checkpoint_name
from .host.run import WebuiMonitor, borrowed
from .host.webui_model import WebuiModel, memory_explained
from .job import Job
from .outputs import LoraFiles, save_vectors
from .request import ForgetRequest

logger = logging.getLogger(__name__)

DRAWING_THE_CARD = "drawing a picture for the card"
PRIVATE_DESCRIPTION = "Made with SD Unlearn in private mode."


@dataclass
class Outcome:
    """What a run gives back."""

    name: str
    """The LoRA's name, as the host lists it."""
    lines: list[str]
    """What was forgotten, drawn instead and kept; sentences that the user should read."""
    recommended_strength: float = 1.0
    """1 where nothing was measured."""
    numbers: list[str] = field(default_factory=list)
    sheet: Image.Image | None = None
    """Before and after; for hidden kinds the former is blurred."""
    embedding: str | None = None
    seconds: float = 0.0
    """Of the whole run, what is drawn and measured included."""

    @property
    def tag(self) -> str:
        """Ready to paste into a prompt."""
        return f"<lora:{self.name}:{self.recommended_strength:g}>"


def run(request: ForgetRequest, job: Job) -> Outcome:
    """Forget, write the files, measure. Call it with the host's queue lock held.

    Raises UnlearnError, Cancelled among them, with no LoRA written; once it is, later trouble
    becomes a line of the outcome.
    """
    job.works = True
    started = time.monotonic()
    concept, settings = request.concept, request.settings
    folder = host_files.lora_folder()
    check_writable(folder)
    hidden = concept.kind in HIDDEN_KINDS
    monitor = WebuiMonitor(job, list(_stages(request)), shows_pictures=not hidden)
    stop_if_asked(monitor)
    with borrowed() as lent:
        result = unlearn(
            lent,
            concept,
            settings,
            monitor,
            measures=request.measure,
            wants_vectors=request.save_embedding,
        )
        result.check_moved()
        stop_if_asked(monitor)
        files = LoraFiles.unused(
            folder, result.concept.name, request.private, host_files.lora_names()
        )
        files.save_lora(result.lora, request.private)
        logger.info("SD Unlearn has written %s", files.lora)
        outcome = Outcome(files.stem, [*_lines(lent, result)])
        try:
            _finish(request, lent, result, files, outcome, monitor)
        except Cancelled:
            outcome.lines.append("note: stopped after the LoRA was written; the rest is missing.")
        except UnlearnError as error:
            outcome.lines.append(f"note: the LoRA is written, but: {error}")
        finally:
            host_files.reload_loras()
    outcome.seconds = time.monotonic() - started
    return outcome


def _finish(
    request: ForgetRequest,
    lent: WebuiModel,
    result: UnlearnResult,
    files: LoraFiles,
    outcome: Outcome,
    monitor: WebuiMonitor,
) -> None:
    """What stands beside the LoRA: card, picture, embedding, and at last the numbers."""
    _save_card(request, lent, result, files, outcome)
    if request.save_embedding and result.learned is not None:
        place = host_files.embeddings_folder()
        outcome.embedding = save_vectors(
            result.learned, result.concept.name, request.private, place
        )
        host_files.reload_embeddings(lent.host_model)
    with memory_explained():
        if not request.private and result.concept.kind not in HIDDEN_KINDS:
            monitor.report(Progress(DRAWING_THE_CARD))
            model = Stoppable(lent, monitor)
            files.save_picture(draw_after(model, result.lora, result.concept, result.settings.seed))
            monitor.report(Progress(DRAWING_THE_CARD, 1, 1))
        if not request.measure:
            return
        evaluation = _measure(lent, result, monitor)
    outcome.numbers = main_numbers(evaluation)
    outcome.recommended_strength = evaluation.recommended_strength
    outcome.sheet = contact_sheet(evaluation)
    lora = result.lora.noting(headline(evaluation))
    files.save_lora(lora, request.private)
    if not request.private:
        page = files.save_page(evaluation, lora)
        outcome.lines.append(f"a page to hand on with the LoRA: {page.name}, beside it")
    _save_card(request, lent, result, files, outcome)


def _save_card(
    request: ForgetRequest,
    lent: WebuiModel,
    result: UnlearnResult,
    files: LoraFiles,
    outcome: Outcome,
) -> None:
    description, notes = PRIVATE_DESCRIPTION, []
    if not request.private:
        description = f"Forgets {', '.join(result.names)}; draws {result.stand_in.word} instead."
        made_for = f"made for: {checkpoint_name(lent.host_model)}"
        notes = [*outcome.lines, *outcome.numbers, made_for]
    files.save_card(lent.family, description, notes, outcome.recommended_strength)


def _measure(lent: LentModel, result: UnlearnResult, monitor: WebuiMonitor) -> Evaluation:
    scaled = ScaledEncoder.with_lora(lent, result.lora)
    return evaluate(lent, result.forgotten, scaled, result.settings.seed, monitor)


def _lines(lent: WebuiModel, result: UnlearnResult) -> Iterator[str]:
    yield from run_lines(result)
    yield from (f"note: {note}" for note in lent.notes)


def _stages(request: ForgetRequest) -> Iterator[str]:
    """The stages that the engine will report, in order."""
    settings = request.settings
    if isinstance(request.concept, Nameless):
        yield READING_PICTURES
    if request.pictures and settings.learns_vectors:
        yield LEARNING
    yield PREPARING
    yield FORGETTING
    if not request.private and request.kind not in HIDDEN_KINDS:
        yield DRAWING_THE_CARD
    if request.measure:
        yield DRAWING_BEFORE_AND_AFTER
        yield DRAWING_THE_STRENGTH_CURVE
