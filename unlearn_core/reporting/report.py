"""The report's files beside a LoRA: numbers, pictures, and a page that holds all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import BadFile
from ..files.input_files import is_file, read_text
from ..files.output_files import check_file, check_writable, make_folder, png_bytes, remove_file
from ..files.tensor_file import write_whole
from ..forgetting.unlearn import UnlearnResult
from ..lora.metadata import BASE_MODEL
from ..measuring.evaluation import Evaluation
from .lines import is_gone, main_numbers, tally
from .page import html_page
from .sheets import contact_sheet, loss_curve, strength_sheet

NUMBERS = "report.json"
FILES = (NUMBERS, "report.html", "contact-sheet.png", "strength.png", "loss.png")
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


def report_files(
    evaluation: Evaluation, result: UnlearnResult | None, metadata: Mapping[str, str], digest: str
) -> dict[str, bytes]:
    """The names and bytes of FILES; loss.png only after a run.

    `metadata` is that of the LoRA that was measured, `digest` the SHA-256 of its file.
    """
    numbers = json.dumps(numbers_of(evaluation, result), indent=1, ensure_ascii=False) + "\n"
    files = {
        NUMBERS: numbers.encode("utf-8", "backslashreplace"),
        "report.html": page_bytes(evaluation, metadata, digest),
        "contact-sheet.png": png_bytes(contact_sheet(evaluation), optimize=True),
        "strength.png": png_bytes(strength_sheet(evaluation), optimize=True),
    }
    if result is not None:
        files["loss.png"] = png_bytes(loss_curve(result.losses), optimize=True)
    return files


def page_bytes(
    evaluation: Evaluation,
    metadata: Mapping[str, str],
    digest: str,
    more: Mapping[str, Mapping[str, str]] | None = None,
    beside: Sequence[Evaluation] = (),
) -> bytes:
    """The page to hand on with a LoRA; see `report_files` and `html_page`."""
    pictures = {
        "Before on the left, after on the right": contact_sheet(evaluation),
        "By strength": strength_sheet(evaluation),
    }
    pngs = {caption: png_bytes(picture, optimize=True) for caption, picture in pictures.items()}
    facts = {
        "LoRA file, SHA-256": digest,
        "made for the text encoder": metadata.get(BASE_MODEL, "not said"),
        "settings": metadata.get("unlearn_settings", "not said"),
    }
    lines = main_numbers(evaluation)
    page = html_page(evaluation, lines, is_gone(evaluation), pngs, facts, more, beside)
    return page.encode("utf-8", "backslashreplace")


def write_report(
    folder: Path,
    evaluation: Evaluation,
    result: UnlearnResult | None,
    metadata: Mapping[str, str],
    digest: str,
) -> list[Path]:
    """Write `report_files`, and remove those of an older report; returns the paths.

    Raises BadFile as `check_report_folder` does, and when a file can't be written.
    """
    files = report_files(evaluation, result, metadata, digest)
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
        "judged_by": evaluation.judged_by,
        "readable": evaluation.is_readable,
        "drift_of_empty_prompt": evaluation.drift_of_empty,
        "drift_of_negative_prompts": evaluation.drift_of_negatives,
        "drift_of_kept_words": evaluation.drift_of_kept,
        "recommended_strength": evaluation.recommended_strength,
        "strengths": [
            {
                "strength": p.strength,
                "forgotten": p.forgotten,
                "kept": p.kept,
                "seen": p.seen,
                "pictures": len(p.concept),
            }
            for p in evaluation.curve
        ],
        "pictures": [
            {
                "role": group.role,
                "word": group.word,
                "prompt": group.prompt,
                "judged": group.judged,
                "asked": group.asked,
                "seen_before": group.seen_before,
                "seen_after": group.seen_after,
                "read_before": tally(group.read_before),
                "read_after": tally(group.read_after),
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
