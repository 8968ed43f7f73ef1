"""The LoRA at strengths from -1 to 1.5, and the strength to recommend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..forgetting.held_out import concept_prompts, kept_prompts
from ..lora.metadata import Forgotten
from ..models.lent_model import LentModel
from ..progress import DRAWING_THE_STRENGTH_CURVE, Progress, RunMonitor, stop_if_asked
from ..text.tower_encoder import TowerEncoder
from ..training.examples import gather_targets
from ..training.losses import RoleScales, role_distance
from ..words.prompts import ROLE_POOLED, ForgetPrompts, Prompts, whole_prompts
from .drawing import draw_encoded, encode_prompt
from .judge import Judge
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
    seen: int = 0
    """In how many of the concept's pictures a judge saw it."""


def recommend(curve: Sequence[CurvePoint]) -> float:
    """The positive strength with the greatest min(forgotten, kept); when equal, nearest to 1.

    One at which a judge still sees the concept only where it does so at all of them.
    """
    positive = [point for point in curve if point.strength > 0]
    gone = [point for point in positive if not point.seen] or positive
    best = max(gone, key=lambda p: (round(min(p.forgotten, p.kept), 2), -abs(p.strength - 1)))
    return best.strength


@dataclass(frozen=True)
class _Targets:
    """Where one tower's states of the concept should go, and those of kept words should stay."""

    stand_in: Tensor
    kept: Tensor
    roles: Tensor
    kept_roles: Tensor
    scales: RoleScales

    @classmethod
    def of(
        cls,
        tower: TowerEncoder,
        own: Tensor,
        stand_in: Tensor,
        kept_own: Tensor,
        concept: ForgetPrompts,
        kept: Prompts,
    ) -> _Targets:
        source = tower.extended(concept.source, concept.source.shape[1])
        roles, kept_roles = (
            tower.extended(prompts.roles, ROLE_POOLED).to(own.device) for prompts in (concept, kept)
        )
        scales = RoleScales.measure(torch.cat([own, kept_own]), torch.cat([roles, kept_roles]))
        return cls(gather_targets(own, stand_in, source), kept_own, roles, kept_roles, scales)

    def to_stand_in(self, states: Tensor) -> float:
        return float(role_distance(states, self.stand_in, self.roles, self.scales).mean())

    def from_kept(self, states: Tensor) -> float:
        return float(role_distance(states, self.kept, self.kept_roles, self.scales).mean())


def _mean(distances: Iterable[float]) -> float:
    found = list(distances)
    return sum(found) / len(found)


@torch.no_grad()
def strength_curve(
    model: LentModel,
    scaled: ScaledEncoder,
    forgotten: Forgotten,
    shown: tuple[str, str],
    seed: int,
    monitor: RunMonitor,
    judge: Judge,
) -> list[CurvePoint]:
    """One point for each of STRENGTHS; raises Cancelled.

    `shown` are the prompts drawn for the concept and for a neighbour. The judge reads the former.
    """
    monitor.report(Progress(DRAWING_THE_STRENGTH_CURVE))
    before = scaled.set_strength(0.0)
    asked = forgotten.concept
    concept = concept_prompts(asked.names, asked.kind, forgotten.stand_in)
    kept = kept_prompts(asked.kind, (*forgotten.kept, forgotten.stand_in))
    own, kept_own = before.states(concept.token_ids), before.states(kept.token_ids)
    towers = zip(before.towers, own, before.states(concept.stand_in_ids), kept_own, strict=True)
    targets = [
        _Targets.of(tower, states, stand_in, kept_states, concept, kept)
        for tower, states, stand_in, kept_states in towers
    ]
    start = _mean(target.to_stand_in(states) for target, states in zip(targets, own, strict=True))
    prompts = [whole_prompts([prompt]).token_ids for prompt in shown]
    points = []
    for done, strength in enumerate(STRENGTHS):
        stop_if_asked(monitor)
        encoder = scaled.set_strength(strength)
        now, kept_now = encoder.states(concept.token_ids), encoder.states(kept.token_ids)
        left = _mean(t.to_stand_in(states) for t, states in zip(targets, now, strict=True))
        moved = _mean(t.from_kept(states) for t, states in zip(targets, kept_now, strict=True))
        with scaled.unet_at(strength):
            concept_pictures, neighbour_pictures = (
                draw_encoded(model, encode_prompt(encoder, ids), CURVE_PICTURES, seed)
                for ids in prompts
            )
        points.append(
            CurvePoint(
                strength,
                1 - left / start,
                1 - moved,
                concept_pictures,
                neighbour_pictures,
                judge.look(concept_pictures, asked.name).count(asked.name),
            )
        )
        monitor.report(Progress(DRAWING_THE_STRENGTH_CURVE, done + 1, len(STRENGTHS)))
    return points
