"""Forgetting a list of concepts: each into its own LoRA, or all into one.

Each into its own: stopped, the same command goes on. The journal gets a concept's line first, its
folder the LoRA last, and a concept is finished when both are there and agree. So whenever the
process ends, what is not finished is done again, with the same bytes. A file without a line is
somebody else's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ..errors import BadFile, Cancelled, TrainingFailed
from ..files.journal import Record, append_record, read_records, replace_records
from ..files.output_files import (
    alone_in,
    check_apart,
    check_file,
    check_letters,
    check_tensor_file,
    check_writable,
    make_folder,
)
from ..files.tensor_file import write_whole
from ..forgetting.unlearn import unlearn_together
from ..loaders.demo_model import DEMOS
from ..lora.file import save_lora
from ..progress import stop_if_asked
from ..reporting.report import check_report_folder, report_paths
from ..settings import UnlearnSettings
from .commands import Session
from .concepts import Entry, pictures_of, read_list
from .workers import Here, Order, Outcome, Worker

JOURNAL = "forgotten.jsonl"


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
    model = session.model
    if model not in DEMOS:
        model = str(Path(model).absolute())
    order = Order(model, session.prediction, preset, settings, report is not None)
    make_folder(out)
    with alone_in(out):
        _forget_pending(session, order, entries, out, report, worker or Here(session))


def forget_together(session: Session, path: Path, settings: UnlearnSettings, out: Path) -> None:
    """Make a model forget every concept of a list in one run; write the one LoRA."""
    check_tensor_file(out)
    entries = read_list(path, settings, session.say)
    check_apart([out], [path, *pictures_of(entries)], session.place)
    concepts = [entry.read(settings) for entry in entries]
    result = unlearn_together(session.load(), concepts, settings, session.monitor)
    result.check_moved()
    stop_if_asked(session.monitor)
    make_folder(out.parent)
    save_lora(result.lora, out)
    for part in result.parts:
        names = ", ".join(part.names)
        session.say(f"forgotten: {names}; {part.stand_in.word} is drawn in its place")
    for note in result.notes:
        session.say(f"note: {note}")
    session.say(f"written: {out.absolute()}")


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
