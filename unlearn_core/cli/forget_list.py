"""Forgetting a list of concepts one by one, each into its own LoRA; stopped, it goes on.

The journal gets a concept's line first, its folder the LoRA last, and a concept is finished when
both are there and agree. So whenever the process ends, what is not finished is done again, with the
same bytes, and a file without a line is somebody else's.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import BadFile, Cancelled, TrainingFailed, UnlearnError
from ..files.journal import Record, append_record, read_records, replace_records
from ..files.output_files import (
    alone_in,
    check_apart,
    check_file,
    check_letters,
    check_writable,
    make_folder,
)
from ..files.tensor_file import write_whole
from ..loaders.diffusers_model import DiffusersModel
from ..lora.file import lora_bytes
from ..measuring.demo_judge import evaluation_judge
from ..measuring.evaluation import evaluate
from ..measuring.report import check_report_folder, report_files, report_paths
from ..measuring.scaled_encoder import ScaledEncoder
from ..progress import RunMonitor
from ..settings import UnlearnSettings
from ..unlearn import UnlearnResult, unlearn
from .commands import DEMO, Session
from .concept_list import Entry, pictures_of, read_list

logger = logging.getLogger(__name__)

JOURNAL = "forgotten.jsonl"


@dataclass(frozen=True)
class Order:
    """How every concept of a list is forgotten."""

    model: str
    """"demo", or the absolute path of a folder or a file."""
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


def forget_list(
    session: Session,
    path: Path,
    preset: str,
    settings: UnlearnSettings,
    out: Path,
    report: Path | None = None,
    worker: Worker | None = None,
) -> None:
    """Forget all concepts of the list at `path` that `out` does not hold already.

    Without `worker` one after the other in this process. Raises BadFile and BadConcept before
    anything runs, BadFile too if another command is writing to `out`, TrainingFailed at the end if
    concepts have failed, and Cancelled.
    """
    entries = read_list(path, settings, session.say)
    folders = [out, *([report] if report else ())]
    for folder in folders:
        check_writable(folder)
    check_letters(out)
    check_file(out / JOURNAL)
    files = [file for entry in entries for file in _files_of(entry, out, report)]
    inputs = [path, *pictures_of(entries)]
    check_apart([out / JOURNAL, *files], inputs, session.place, folders)
    model = DEMO if session.model == DEMO else str(Path(session.model).absolute())
    order = Order(model, session.prediction, preset, settings, report is not None)
    make_folder(out)
    with alone_in(out):
        _forget_pending(session, order, entries, out, report, worker or _Here(session))


def _forget_pending(
    session: Session,
    order: Order,
    entries: Sequence[Entry],
    out: Path,
    report: Path | None,
    work: Worker,
) -> None:
    records = {record["concept"]: record for record in read_records(out / JOURNAL)}
    pending = [
        entry
        for entry in entries
        if not _is_finished(order, entry, records.get(entry.concept.name, {}), out, report)
    ]
    _refuse_others_files(pending, list(records.values()), out, report)
    done, failures = len(entries) - len(pending), 0
    if done:
        session.say(f"{done} of {len(entries)} are done already")
    if pending:
        try:
            with closing(work(order, pending, session.monitor)) as outcomes:
                for outcome in outcomes:
                    _keep(outcome, records, out, report)
                    done += "error" not in outcome.record
                    failures += "error" in outcome.record
                    session.say(f"{_in_words(outcome)} ({done + failures} of {len(entries)})")
        except Cancelled as error:
            raise Cancelled(
                f"Stopped as you asked: {done} of {len(entries)} concepts are done; the same "
                "command goes on from there."
            ) from error
    if failures:
        raise TrainingFailed(
            f"{failures} of {len(entries)} concepts failed; {out / JOURNAL} says why. The same "
            "command tries them again."
        )
    session.say(f"written: {len(entries)} LoRAs in {out.absolute()}, and {JOURNAL}")


def forget_entry(model: DiffusersModel, order: Order, entry: Entry, monitor: RunMonitor) -> Outcome:
    """Forget one concept; whatever goes wrong with it is told in its record. Raises Cancelled."""
    started = time.monotonic()
    try:
        result = unlearn(model, entry.read(order.settings), order.settings, monitor)
        result.check_moved()
        lora = lora_bytes(result.lora, entry.stem)
        report = _report(model, order, result, monitor) if order.reports else {}
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


@dataclass(frozen=True)
class _Here:
    """Forgets one entry after the other in this process."""

    session: Session

    def __call__(self, order: Order, entries: Sequence[Entry], monitor: RunMonitor) -> Outcomes:
        model = self.session.load()
        for entry in entries:
            yield forget_entry(model, order, entry, monitor)


def _report(
    model: DiffusersModel, order: Order, result: UnlearnResult, monitor: RunMonitor
) -> dict[str, bytes]:
    forgotten = result.forgotten
    judge = evaluation_judge(forgotten.concept.kind) if order.model == DEMO else None
    scaled = ScaledEncoder.with_lora(model, result.lora)
    evaluation = evaluate(model, forgotten, scaled, order.settings.seed, monitor, judge)
    return report_files(evaluation, result)


def _is_finished(
    order: Order, entry: Entry, record: Record, out: Path, report: Path | None
) -> bool:
    """Whether the same work was done, and its files are there and as they were written."""
    if "error" in record or record.get("task") != order.fingerprint(entry):
        return False
    lora, *reported = _files_of(entry, out, report)
    if not all(path.is_file() for path in reported):
        return False
    return lora.is_file() and hashlib.sha256(lora.read_bytes()).hexdigest() == record.get("sha256")


def _files_of(entry: Entry, out: Path, report: Path | None) -> list[Path]:
    """A concept's LoRA, and what its report may have."""
    sheets = report_paths(report / entry.stem) if report is not None else []
    return [out / f"{entry.stem}.safetensors", *sheets]


def _refuse_others_files(
    pending: Sequence[Entry], records: Sequence[Record], out: Path, report: Path | None
) -> None:
    """Raise BadFile if a file is in the way that no line of the journal is about."""
    ours = [record.get("file") for record in records]
    for entry in pending:
        there = [path for path in _files_of(entry, out, report) if os.path.lexists(path)]
        if there and f"{entry.stem}.safetensors" not in ours:
            raise BadFile(
                f"{there[0]} is there already, and no line of {out / JOURNAL} says that it was "
                "written here: move it away, or choose another folder."
            )
        for path in there:
            check_file(path)
        if report is not None:
            check_report_folder(report / entry.stem)


def _keep(outcome: Outcome, records: dict[str, Record], out: Path, report: Path | None) -> None:
    """Write the line in the journal, then the files of a concept, the LoRA last."""
    record = outcome.record
    before = records.pop(record["concept"], None)
    if before is None:
        append_record(out / JOURNAL, record)
    else:
        if "file" in before:  # a LoRA of before that stays is still ours
            record = {**record, "file": before["file"]} if "error" in record else record
        replace_records(out / JOURNAL, [*records.values(), record])
    records[record["concept"]] = record
    if report is not None and outcome.report:
        folder = report / outcome.entry.stem
        make_folder(folder)
        for name, content in outcome.report.items():
            write_whole(folder / name, content)
    if outcome.lora:
        write_whole(out / record["file"], outcome.lora)


def _in_words(outcome: Outcome) -> str:
    record: dict[str, Any] = outcome.record
    if "error" in record:
        return f"{record['concept']}: failed: {record['error']}"
    words = f"{record['concept']}: {record['file']}, {record['stand_in']} is drawn in its place"
    return f"{words}, {record['seconds']} s"
