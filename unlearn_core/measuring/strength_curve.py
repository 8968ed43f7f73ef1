"""The LoRA at strengths from -1 to 1.5, and the strength to recommend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..forgetting.held_out import concept_prompts, kept_prompts
from ..lora.metadata import Forgotten
from ..models.lent_model import LentModel
from ..progress import DRAWING_THE_STRENGTH_CURVE, Progress, RunMonitor, stop_if_asked
from ..training.examples import gather_targets
from ..training.losses import RoleScales, role_distance
from ..words.prompts import whole_prompts
from .drawing import draw_encoded, encode_prompt
from .scaled_encoder import ScaledEncoder

STRENGTHS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
CURVE_PICTURES = 2


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


def recommend(curve: Sequence[CurvePoint]) -> float:
    """The positive strength with the greatest min(forgotten, kept); when equal, nearest to 1."""
    positive = [point for point in curve if point.strength > 0]
    best = max(positive, key=lambda p: (round(min(p.forgotten, p.kept), 2), -abs(p.strength - 1)))
    return best.strength


@torch.no_grad()
def strength_curve(
    model: LentModel,
    scaled: ScaledEncoder,
    forgotten: Forgotten,
    shown: tuple[str, str],
    seed: int,
    monitor: RunMonitor,
) -> list[CurvePoint]:
    """One point for each of STRENGTHS; raises Cancelled.

    `shown` are the prompts drawn for the concept and for a neighbour.
    """
    before = scaled.set_strength(0.0)
    asked = forgotten.concept
    concept = concept_prompts(asked.names, asked.kind, forgotten.stand_in)
    kept = kept_prompts(asked.kind, (*forgotten.kept, forgotten.stand_in))
    own, stand_in = before.encode(concept.token_ids), before.encode(concept.stand_in_ids)
    wanted = gather_targets(own, stand_in, concept.source)
    kept_own = before.encode(kept.token_ids)
    roles, kept_roles = concept.roles.to(own.device), kept.roles.to(own.device)
    scales = RoleScales.measure(torch.cat([own, kept_own]), torch.cat([roles, kept_roles]))
    start = role_distance(own, wanted, roles, scales).mean()
    prompts = [whole_prompts([prompt]).token_ids for prompt in shown]
    points = []
    for done, strength in enumerate(STRENGTHS):
        stop_if_asked(monitor)
        encoder = scaled.set_strength(strength)
        left = role_distance(encoder.encode(concept.token_ids), wanted, roles, scales).mean()
        moved = role_distance(encoder.encode(kept.token_ids), kept_own, kept_roles, scales).mean()
        concept_pictures, neighbour_pictures = (
            draw_encoded(model, encode_prompt(encoder, ids), CURVE_PICTURES, seed)
            for ids in prompts
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
        monitor.report(Progress(DRAWING_THE_STRENGTH_CURVE, done + 1, len(STRENGTHS)))
    return points
