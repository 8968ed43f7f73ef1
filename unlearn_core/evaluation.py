"""How well the concept is forgotten and the rest is kept: numbers, and the pictures behind them.

Distances are `losses.role_distance`: 1 is as far as two random prompts lie apart. Every picture
before and after is drawn from the same noise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .concept import Concept, Kind
from .errors import BadFile
from .lent_model import LentModel, Progress, RunMonitor, stop_if_asked
from .lora_file import LoraWeights
from .lora_math import apply_lora
from .losses import RoleScales, drift, role_distance
from .prompt_templates import GUARD_PROMPTS
from .prompts import (
    OWN_STATE,
    ForgetPrompts,
    Name,
    Prompts,
    fill,
    make_prompts,
    pair_prompts,
    whole_prompts,
)
from .sampling import draw_pictures, paired_noise
from .text_encoder import TextEncoder
from .unlearn import UnlearnResult
from .word_tables import nouns, styles

STRENGTHS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
SHEET_COLUMNS = 4
JUDGED_PICTURES = 16
"""Pictures of each prompt group that a judge reads, where there is one."""
CURVE_PICTURES = 2
NEIGHBOURS = 3
DRAW_STEPS = 10

# Grammars that the eraser's own templates lack.
OBJECT_TEMPLATES = ("{it} in the style of a picture", "look at {it}", "this is {it}")
STYLE_TEMPLATES = ("a house in the style of {it}", "{it} art of a rose", "{it} car")


@dataclass(frozen=True)
class Judge:
    """A separate network that names what a picture shows."""

    names: frozenset[str]
    """Everything that it can name; other words it is not asked about."""
    read: Callable[[Tensor], list[str]]
    """(B, 3, h, w) float32 in [-1, 1] -> one of `names` for each picture."""


@dataclass(frozen=True)
class Forgotten:
    """What a LoRA is said to have forgotten."""

    concept: Concept
    names: tuple[str, ...]
    stand_in: str
    kept: tuple[str, ...]

    @classmethod
    def from_result(cls, result: UnlearnResult) -> Forgotten:
        """As a run has it."""
        return cls(result.concept, result.names, result.stand_in.word, result.kept)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Forgotten:
        """As a LoRA file of this engine has it; raises BadFile if the file is another's."""
        try:
            names = tuple(json.loads(metadata["unlearn_names"]))
            kept = tuple(json.loads(metadata["unlearn_kept"]))
            kind: Kind = metadata["unlearn_kind"]  # type: ignore[assignment]
            synonyms = tuple(json.loads(metadata["unlearn_synonyms"]))
            concept = Concept(metadata["unlearn_concept"], synonyms, kind)
            return cls(concept, names, metadata["unlearn_stand_in"], kept)
        except (KeyError, ValueError, TypeError) as error:
            raise BadFile(
                "The LoRA file does not say what it forgets; name the concept and its stand-in."
            ) from error


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
class CurvePoint:
    """The LoRA at one strength."""

    strength: float
    forgotten: float
    """1 - distance to the stand-in / distance before: 0 as before, 1 as the stand-in; below 0 the
    concept is drawn away from the stand-in."""
    kept: float
    """1 - mean distance of kept words from what they were."""
    concept: Tensor
    """(n, 3, h, w): pictures of the concept's prompt."""
    neighbour: Tensor


@dataclass(frozen=True)
class Evaluation:
    """Numbers and pictures of one LoRA; all at strength 1 but for the curve."""

    forgotten: Forgotten
    groups: tuple[Group, ...]
    drift_of_empty: float
    """Greatest relative change over all positions of the empty prompt."""
    drift_of_negatives: dict[str, float]
    drift_of_kept: dict[str, float]
    curve: tuple[CurvePoint, ...]
    recommended_strength: float
    seed: int


@torch.no_grad()
def evaluate(
    model: LentModel,
    forgotten: Forgotten,
    lora: LoraWeights,
    seed: int,
    monitor: RunMonitor,
    judge: Judge | None = None,
) -> Evaluation:
    """Compare the lent model with and without the LoRA; raises WrongModel, Cancelled."""
    weights = model.text_encoder_weights()

    def encoder_at(strength: float) -> TextEncoder:
        changed = apply_lora(weights, lora, strength)
        return TextEncoder(changed, model.last_used_layer, model.device)

    before, after = encoder_at(0.0), encoder_at(1.0)
    subjects = _subjects(forgotten, before)
    groups = []
    for done, (role, word) in enumerate(subjects):
        stop_if_asked(monitor)
        groups.append(_compare(model, before, after, forgotten, role, word, seed, judge))
        monitor.report(Progress("drawing before and after", done + 1, len(subjects)))
    guard = whole_prompts(GUARD_PROMPTS)
    guard_drift = drift(after.encode(guard.token_ids), before.encode(guard.token_ids)).tolist()
    kept_prompts = _kept_prompts(forgotten)
    kept_drift = drift(
        after.encode(kept_prompts.token_ids), before.encode(kept_prompts.token_ids)
    ).tolist()
    curve = _curve(model, encoder_at, before, forgotten, groups, seed, monitor)
    return Evaluation(
        forgotten,
        tuple(groups),
        guard_drift[0],
        dict(zip(GUARD_PROMPTS[1:], guard_drift[1:], strict=True)),
        dict(zip(forgotten.kept, kept_drift, strict=False)),
        tuple(curve),
        recommend(curve),
        seed,
    )


def recommend(curve: Sequence[CurvePoint]) -> float:
    """The positive strength with the greatest min(forgotten, kept); the lower one when equal."""
    positive = [point for point in curve if point.strength > 0]
    best = max(positive, key=lambda p: (round(min(p.forgotten, p.kept), 2), -p.strength))
    return best.strength


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
    pictures = [_draw(model, encoder, prompt.token_ids, count, seed) for encoder in (before, after)]
    shown: list[float | None] = [None, None]
    if judge is not None:
        shown = [
            sum(name == wanted for name in judge.read(batch)) / len(batch) for batch in pictures
        ]
    first, second = (batch[:SHEET_COLUMNS] for batch in pictures)
    judged = count if judge else 0
    return Group(role, word, prompt.texts[0], first, second, shown[0], shown[1], judged)


def _draw(
    model: LentModel, encoder: TextEncoder, token_ids: Tensor, count: int, seed: int
) -> Tensor:
    text = encoder.encode(torch.cat([token_ids, whole_prompts([""]).token_ids]))
    size = model.native_size
    noise = torch.cat([paired_noise(seed, i, size, size) for i in range(count)])
    return draw_pictures(model, text[:1].expand(count, -1, -1), text[1:], noise, DRAW_STEPS)


def _kept_prompts(forgotten: Forgotten) -> Prompts:
    kind = forgotten.concept.kind
    templates = STYLE_TEMPLATES if kind == "style" else OBJECT_TEMPLATES
    names = [Name.of(word, kind) for word in (*forgotten.kept, forgotten.stand_in)]
    return make_prompts([fill(templates[i % 3], name) for i, name in enumerate(names)])


def _forget_prompts(forgotten: Forgotten) -> ForgetPrompts:
    kind = forgotten.concept.kind
    templates = STYLE_TEMPLATES if kind == "style" else OBJECT_TEMPLATES
    stand_in = Name.of(forgotten.stand_in, kind)
    return pair_prompts(
        [
            (fill(template, Name.of(word, kind)), fill(template, stand_in))
            for template in templates
            for word in forgotten.concept.names
        ]
    )


def _curve(
    model: LentModel,
    encoder_at: Callable[[float], TextEncoder],
    before: TextEncoder,
    forgotten: Forgotten,
    groups: Sequence[Group],
    seed: int,
    monitor: RunMonitor,
) -> list[CurvePoint]:
    concept = _forget_prompts(forgotten)
    kept = _kept_prompts(forgotten)
    own, stand_in = before.encode(concept.token_ids), before.encode(concept.stand_in_ids)
    source = concept.source.to(own.device)
    gathered = stand_in.gather(1, source.clamp(min=0)[..., None].expand_as(own))
    wanted = torch.where((source == OWN_STATE)[..., None], own, gathered)
    kept_own = before.encode(kept.token_ids)
    roles, kept_roles = concept.roles.to(own.device), kept.roles.to(own.device)
    scales = RoleScales.measure(torch.cat([own, kept_own]), torch.cat([roles, kept_roles]))
    start = role_distance(own, wanted, roles, scales).mean()
    shown = [
        next((group for group in groups if group.role == role), groups[0])
        for role in ("concept", "neighbour")
    ]
    prompts = [whole_prompts([group.prompt]).token_ids for group in shown]
    points = []
    for done, strength in enumerate(STRENGTHS):
        stop_if_asked(monitor)
        encoder = encoder_at(strength)
        left = role_distance(encoder.encode(concept.token_ids), wanted, roles, scales).mean()
        moved = role_distance(encoder.encode(kept.token_ids), kept_own, kept_roles, scales).mean()
        concept_pictures, neighbour_pictures = (
            _draw(model, encoder, ids, CURVE_PICTURES, seed) for ids in prompts
        )
        points.append(
            CurvePoint(
                strength,
                float(1 - left / start),
                float(1 - moved),
                concept_pictures,
                neighbour_pictures,
            )
        )
        monitor.report(Progress("drawing the strength curve", done + 1, len(STRENGTHS)))
    return points
