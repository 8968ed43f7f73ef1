"""The report: its first lines, and its files beside a LoRA, report.json and the pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import BadFile
from ..files.input_files import is_file, read_text
from ..files.output_files import check_file, check_writable, make_folder, png_bytes, remove_file
from ..files.tensor_file import write_whole
from ..forgetting.held_out import ENOUGH, WHAT_TO_TRY
from ..forgetting.unlearn import UnlearnResult
from ..lora.metadata import BASE_MODEL
from ..measuring.evaluation import Evaluation, Group
from ..words.naming import FoundWords
from .sheets import contact_sheet, loss_curve, strength_sheet

NUMBERS = "report.json"
FILES = (NUMBERS, "contact-sheet.png", "strength.png", "loss.png")
SEEN_AT_MOST = 0.1
"""Pictures that show the concept after, of those that did before, up to which it is forgotten."""
_KEYS = {"concept", "strengths", "recommended_strength"}


def report_paths(folder: Path) -> list[Path]:
    """All files that a report may have."""
    return [folder / name for name in FILES]


def check_report_folder(folder: Path) -> None:
    """Raise BadFile unless a report can be written there, which replaces no file but an older one.

    Files are taken for an older report's if a report.json stands among them.
    """
    check_writable(folder)
    for path in report_paths(folder):
        check_file(path)
    found = [path for path in report_paths(folder) if is_file(path)]
    if found and not _is_report(folder / NUMBERS):
        raise BadFile(
            f"{folder} holds a {found[0].name} that is not of a report, and a report would replace "
            "it: choose another folder."
        )


def report_files(evaluation: Evaluation, result: UnlearnResult | None) -> dict[str, bytes]:
    """The names and bytes of report.json, contact-sheet.png, strength.png, after a run loss.png."""
    numbers = json.dumps(numbers_of(evaluation, result), indent=1, ensure_ascii=False) + "\n"
    files = {
        NUMBERS: numbers.encode("utf-8", "backslashreplace"),
        "contact-sheet.png": png_bytes(contact_sheet(evaluation), optimize=True),
        "strength.png": png_bytes(strength_sheet(evaluation), optimize=True),
    }
    if result is not None:
        files["loss.png"] = png_bytes(loss_curve(result.losses), optimize=True)
    return files


def write_report(folder: Path, evaluation: Evaluation, result: UnlearnResult | None) -> list[Path]:
    """Write `report_files`, and remove those of an older report; returns the paths.

    Raises BadFile as `check_report_folder` does, and when a file can't be written.
    """
    files = report_files(evaluation, result)
    check_report_folder(folder)
    make_folder(folder)
    for name, content in files.items():  # report.json first: what follows is then known as ours
        write_whole(folder / name, content)
    for name in set(FILES) - set(files):
        remove_file(folder / name)
    return [folder / name for name in files]


def _is_report(path: Path) -> bool:
    try:
        numbers = json.loads(read_text(path))
    except (BadFile, ValueError, RecursionError):  # missing, or of something else
        return False
    return isinstance(numbers, dict) and set(numbers) >= _KEYS


def numbers_of(evaluation: Evaluation, result: UnlearnResult | None) -> dict[str, Any]:
    """Everything that was measured and set, ready for JSON."""
    forgotten = evaluation.forgotten
    numbers: dict[str, Any] = {
        "concept": forgotten.concept.name,
        "kind": forgotten.concept.kind,
        "names": list(forgotten.names),
        "stand_in": forgotten.stand_in,
        "kept_first": list(forgotten.kept),
        "seed": evaluation.seed,
        "drift_of_empty_prompt": evaluation.drift_of_empty,
        "drift_of_negative_prompts": evaluation.drift_of_negatives,
        "drift_of_kept_words": evaluation.drift_of_kept,
        "recommended_strength": evaluation.recommended_strength,
        "strengths": [
            {"strength": p.strength, "forgotten": p.forgotten, "kept": p.kept}
            for p in evaluation.curve
        ],
        "pictures": [
            {
                "role": group.role,
                "word": group.word,
                "prompt": group.prompt,
                "judged": group.judged,
                "shown_before": group.shown_before,
                "shown_after": group.shown_after,
            }
            for group in evaluation.groups
        ],
    }
    return numbers | (_numbers_of_run(result) if result is not None else {})


def _numbers_of_run(result: UnlearnResult) -> dict[str, Any]:
    choice = result.stand_in
    return {
        "stand_in_chosen_by": choice.chosen_by,
        "stand_in_cosine": choice.cosine,
        "stand_in_pictures_drawn": choice.drawn,
        "stand_in_pictures_like_concept": choice.drawn_as_concept,
        "learned_vectors": None
        if result.learned is None
        else {
            "count": len(result.learned.vectors),
            "explained": result.learned.explained,
            "accepted": result.learned.accepted,
            "losses": list(result.learned.losses),
        },
        "losses": list(result.losses),
        "found_words": None if result.found is None else result.found.as_dict(),
        "notes": list(result.notes),
        "seconds": result.seconds,
        "memory_in_bytes": {"used": result.memory.used, **asdict(result.memory.plan)},
        "settings": result.settings.as_dict(),
        "base_model_hash": result.lora.metadata[BASE_MODEL],
    }


def run_lines(result: UnlearnResult) -> list[str]:
    """What a run has done: forgotten, drawn instead, kept; memory; what the user should know."""
    stand_in = result.stand_in
    return [
        *([words_line(result.found)] if result.found else ()),
        f"{_verdict(result.part.moved_doubt is None)}: {', '.join(result.names)}",
        f"drawn in its place: {stand_in.word} (chosen by {stand_in.chosen_by})",
        f"kept first: {', '.join(result.kept) or 'nothing in particular'}",
        f"memory: {result.memory.in_words()}",
        *(f"note: {note}" for note in result.notes),
    ]


def words_line(found: FoundWords) -> str:
    """The model's words for the pictures, best first."""
    return f"the model's words for these pictures: {found.in_words()}"


def main_numbers(evaluation: Evaluation) -> list[str]:
    """Three lines: how well the concept is forgotten, the rest kept, and which strength to use."""
    point = min(evaluation.curve, key=lambda p: abs(p.strength - 1))
    own = [group for group in evaluation.groups if group.role in ("concept", "synonym")]
    rest = [group for group in evaluation.groups if group.role not in ("concept", "synonym")]
    stand_in = evaluation.forgotten.stand_in
    moved = (
        f"moved {point.forgotten:.0%} of the way to" if point.forgotten >= 0 else "moved away from"
    )
    is_gone = _is_gone(own, point.forgotten)
    advice = "" if is_gone else f". {WHAT_TO_TRY}"
    return [
        f"{_verdict(is_gone)}: {_seen(own)}its prompts {moved} {stand_in!r} "
        f"(in prompts that were not trained){advice}",
        f"kept: {_seen(rest)}prompts with kept words stay {point.kept:.1%} the same",
        f"strength: use {evaluation.recommended_strength:g}; the empty prompt changes by "
        f"{evaluation.drift_of_empty:.2%}",
    ]


def _verdict(is_gone: bool) -> str:
    return "forgotten" if is_gone else "not forgotten"


def _is_gone(groups: Sequence[Group], way: float) -> bool:
    """By pictures in which a judge saw the concept before, else by the way to the stand-in."""
    before, after = _shown(groups)
    return after <= SEEN_AT_MOST * before if before else way >= ENOUGH


def _seen(groups: Sequence[Group]) -> str:
    """How many pictures showed their word before and after; nothing where no judge looked."""
    judged = [group for group in groups if group.judged]
    if not judged:
        return ""
    count = sum(group.judged for group in judged)
    before, after = _shown(judged)
    words = ", ".join(group.word for group in judged)
    return f"{words} seen in {before:.0f} of {count} pictures before, {after:.0f} after; "


def _shown(groups: Sequence[Group]) -> tuple[float, float]:
    """Pictures in which the judge saw the concept before and after."""
    judged = [group for group in groups if group.judged]
    before = sum((group.shown_before or 0) * group.judged for group in judged)
    after = sum((group.shown_after or 0) * group.judged for group in judged)
    return before, after
