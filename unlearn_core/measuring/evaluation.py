"""How well the concept is forgotten and the rest is kept: numbers, and the pictures behind them.

Distances are `losses.role_distance`: 1 is as far as two random prompts lie apart. Every picture
before and after is drawn from the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import WrongModel
from ..forgetting.held_out import kept_prompts
from ..forgetting.memory_plan import rows_that_fit
from ..lora.weights import LoraWeights, apply_lora
from ..models.lent_model import LentModel, Stoppable
from ..progress import DRAWING_BEFORE_AND_AFTER, Progress, RunMonitor, stop_if_asked
from ..text.text_encoder import TextEncoder
from ..text.word_tables import nouns, styles
from ..training.losses import drift
from ..words.prompt_templates import GUARD_PROMPTS
from ..words.prompts import Name, fill, make_prompts, whole_prompts
from .forgotten import Forgotten
from .strength_curve import DRAW_STEPS, CurvePoint, draw_prompt, recommend, strength_curve

WeightsAt = Callable[[float], Mapping[str, Tensor]]
"""The text encoder's weights at a strength: 0 is before, 1 after."""

SHEET_COLUMNS = 4
JUDGED_PICTURES = 16
"""Pictures of each prompt group that a judge reads, where there is one."""
NEIGHBOURS = 3


@dataclass(frozen=True)
class Judge:
    """A separate network that names what a picture shows."""

    names: frozenset[str]
    """Everything that it can name; other words it is not asked about."""
    read: Callable[[Tensor], list[str]]
    """(B, 3, h, w) float32 in [-1, 1] -> one of `names` for each picture."""


@dataclass(frozen=True)
class Group:
    """Pictures of one prompt before and after, from the same noise."""

    role: str
    """concept, synonym, neighbour or unrelated."""
    word: str
    prompt: str
    before: Tensor
    """(n, 3, h, w) float32 in [-1, 1]."""
    after: Tensor
    shown_before: float | None = None
    """Share of judged pictures that show the word itself (a synonym: the concept)."""
    shown_after: float | None = None
    judged: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Numbers and pictures of one change of the text encoder; at strength 1 but for the curve."""

    forgotten: Forgotten
    groups: tuple[Group, ...]
    drift_of_empty: float
    """Greatest relative change over all positions of the empty prompt."""
    drift_of_negatives: dict[str, float]
    drift_of_kept: dict[str, float]
    curve: tuple[CurvePoint, ...]
    recommended_strength: float
    seed: int


def with_lora(weights: Mapping[str, Tensor], lora: LoraWeights) -> WeightsAt:
    """Weights with a LoRA at each strength; raises WrongModel if it doesn't fit them."""
    return lambda strength: apply_lora(weights, lora, strength)


def between(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> WeightsAt:
    """Weights on the line through two text encoders; raises WrongModel if they don't fit."""
    shapes = [{name: weight.shape for name, weight in side.items()} for side in (before, after)]
    if shapes[0] != shapes[1]:
        raise WrongModel(
            "The text encoders before and after are of two different models: compare one CLIP with "
            "the same CLIP after forgetting."
        )

    changed = [name for name, weight in before.items() if not weight.equal(after[name])]

    def at(strength: float) -> dict[str, Tensor]:
        moved = {n: torch.lerp(before[n].float(), after[n].float(), strength) for n in changed}
        return {**before, **moved}

    return at


@torch.no_grad()
def evaluate(
    model: LentModel,
    forgotten: Forgotten,
    weights_at: WeightsAt,
    seed: int,
    monitor: RunMonitor,
    judge: Judge | None = None,
) -> Evaluation:
    """Compare the lent model before and after; raises WrongModel, Cancelled."""
    model = Stoppable(model, monitor, rows_that_fit(model, 2 * JUDGED_PICTURES))

    def encoder_at(strength: float) -> TextEncoder:
        return TextEncoder(dict(weights_at(strength)), model.last_used_layer, model.device)

    before, after = encoder_at(0.0), encoder_at(1.0)
    subjects = _subjects(forgotten, before)
    groups = []
    for done, (role, word) in enumerate(subjects):
        stop_if_asked(monitor)
        groups.append(_compare(model, before, after, forgotten, role, word, seed, judge))
        monitor.report(Progress(DRAWING_BEFORE_AND_AFTER, done + 1, len(subjects)))
    guard = whole_prompts(GUARD_PROMPTS)
    guard_drift = drift(after.encode(guard.token_ids), before.encode(guard.token_ids)).tolist()
    kept_ids = kept_prompts(forgotten.concept.kind, forgotten.kept).token_ids
    kept_drift = drift(after.encode(kept_ids), before.encode(kept_ids)).tolist()
    shown = tuple(
        next((group for group in groups if group.role == role), groups[0]).prompt
        for role in ("concept", "neighbour")
    )
    curve = strength_curve(model, encoder_at, forgotten, (shown[0], shown[1]), seed, monitor)
    return Evaluation(
        forgotten,
        tuple(groups),
        guard_drift[0],
        dict(zip(GUARD_PROMPTS[1:], guard_drift[1:], strict=True)),
        dict(zip(forgotten.kept, kept_drift, strict=True)),
        tuple(curve),
        recommend(curve),
        seed,
    )


def _subjects(forgotten: Forgotten, encoder: TextEncoder) -> list[tuple[str, str]]:
    concept = forgotten.concept
    subjects = [("concept", concept.name)]
    subjects += [("synonym", word) for word in concept.synonyms[:3]]
    subjects += [("neighbour", word) for word in forgotten.kept[:NEIGHBOURS]]
    table = styles() if concept.kind == "style" else nouns()
    taken = {*forgotten.names, *forgotten.kept, forgotten.stand_in}
    rest = [word for word in table if word not in taken and encoder.knows(word)]
    step = max(1, len(rest) // NEIGHBOURS)
    return subjects + [("unrelated", word) for word in rest[step // 2 :: step][:NEIGHBOURS]]


def _compare(
    model: LentModel,
    before: TextEncoder,
    after: TextEncoder,
    forgotten: Forgotten,
    role: str,
    word: str,
    seed: int,
    judge: Judge | None,
) -> Group:
    kind = forgotten.concept.kind
    template = "a picture of a house, {it} style" if kind == "style" else "a photo of {it}"
    prompt = make_prompts([fill(template, Name.of(word, kind))])
    wanted = forgotten.concept.name if role == "synonym" else word
    if judge is not None and wanted not in judge.names:
        judge = None
    count = SHEET_COLUMNS if judge is None else JUDGED_PICTURES
    pictures = [
        draw_prompt(model, encoder, prompt.token_ids, count, seed, DRAW_STEPS)
        for encoder in (before, after)
    ]
    shown: list[float | None] = [None, None]
    if judge is not None:
        shown = [
            sum(name == wanted for name in judge.read(batch)) / len(batch) for batch in pictures
        ]
    first, second = (batch[:SHEET_COLUMNS] for batch in pictures)
    judged = count if judge else 0
    return Group(role, word, prompt.texts[0], first, second, shown[0], shown[1], judged)
