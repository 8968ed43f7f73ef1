"""The report beside a LoRA: report.json with every number and setting, and the pictures."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from .errors import BadFile
from .evaluation import Evaluation
from .sheets import contact_sheet, loss_curve, strength_sheet
from .tensor_file import write_whole
from .unlearn import UnlearnResult


def write_report(folder: Path, evaluation: Evaluation, result: UnlearnResult | None) -> list[Path]:
    """Write report.json, contact-sheet.png, strength.png and, after a run, loss.png.

    Returns the paths. Raises BadFile when the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"The report folder {folder} can't be made: {error.strerror}.") from error
    pictures = {
        "contact-sheet.png": contact_sheet(evaluation),
        "strength.png": strength_sheet(evaluation),
    }
    if result is not None:
        pictures["loss.png"] = loss_curve(result.losses)
    written = []
    for name, picture in pictures.items():
        write_whole(folder / name, _png(picture))
        written.append(folder / name)
    numbers = json.dumps(numbers_of(evaluation, result), indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / "report.json", numbers.encode())
    return [folder / "report.json", *written]


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
    if result is not None:
        choice = result.stand_in
        numbers |= {
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
            "base_model_hash": result.lora.metadata["unlearn_base_model_hash"],
        }
    return numbers


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
