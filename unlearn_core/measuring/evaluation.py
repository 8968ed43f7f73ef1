"""How well the concept is forgotten and the rest is kept: numbers, and the pictures behind them.

Distances are `losses.role_distance`: 1 is as far as two random prompts lie apart. Every picture
before and after is drawn from the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concept import Concept, Kind
from ..forgetting.held_out import kept_prompts
from ..forgetting.memory_plan import rows_that_fit
from ..lora.metadata import Forgotten
from ..models.lent_model import LentModel, Stoppable
from ..progress import DRAWING_BEFORE_AND_AFTER, Progress, RunMonitor, SilentMonitor, stop_if_asked
from ..text.conditioning import Conditioning
from ..text.text_encoder import TextEncoder
from ..text.word_tables import nouns, styles
from ..training.losses import drift
from ..words.neighbours import KEPT_FIRST, look_around
from ..words.prompt_templates import GUARD_PROMPTS
from ..words.prompts import Name, Prompts, fill, make_prompts, whole_prompts
from ..words.stand_in import choose_stand_in
from .drawing import draw_encoded, encode_prompt
from .scaled_encoder import ScaledEncoder
from .strength_curve import CurvePoint, recommend, strength_curve

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
    """Greatest relative change over all positions of the empty prompt and its pooled vector."""
    drift_of_negatives: dict[str, float]
    drift_of_kept: dict[str, float]
    curve: tuple[CurvePoint, ...]
    recommended_strength: float
    seed: int


def forgotten_by_nearness(encoder: TextEncoder, concept: Concept, seed: int) -> Forgotten:
    """What a run would choose from the words alone; raises BadConcept."""
    around = look_around(encoder, concept)
    choice = choose_stand_in(encoder, concept, around, None, 0, seed, SilentMonitor())
    kept = around.nearest(KEPT_FIRST)
    return Forgotten(concept, concept.names, choice.word, kept)


@torch.no_grad()
def evaluate(
    model: LentModel,
    forgotten: Forgotten,
    scaled: ScaledEncoder,
    seed: int,
    monitor: RunMonitor,
    judge: Judge | None = None,
) -> Evaluation:
    """Compare the lent model before and after; raises WrongModel, BadSettings, Cancelled."""
    monitor.report(Progress(DRAWING_BEFORE_AND_AFTER))
    model = Stoppable(model, monitor, rows_that_fit(model, 2 * JUDGED_PICTURES))
    kind = forgotten.concept.kind
    subjects = _subjects(forgotten, scaled.set_strength(0.0))
    prompts = [_prompt(word, kind) for _, word in subjects]
    guard = whole_prompts(GUARD_PROMPTS).token_ids
    kept = kept_prompts(kind, forgotten.kept).token_ids
    before, after = (
        _Texts.of(scaled.set_strength(strength), prompts, guard, kept) for strength in (0.0, 1.0)
    )
    groups = []
    for number, (role, word) in enumerate(subjects):
        stop_if_asked(monitor)
        texts = (before.prompts[number], after.prompts[number])
        wanted = forgotten.concept.name if role == "synonym" else word
        able = judge if judge is not None and wanted in judge.names else None
        drawn = _draw(model, scaled, texts, seed, able, wanted)
        groups.append(Group(role, word, prompts[number].texts[0], *drawn))
        monitor.report(Progress(DRAWING_BEFORE_AND_AFTER, number + 1, len(subjects)))
    guard_drift = _drift(after.guard, before.guard)
    kept_drift = _drift(after.kept, before.kept)
    shown = tuple(
        next((group for group in groups if group.role == role), groups[0]).prompt
        for role in ("concept", "neighbour")
    )
    curve = strength_curve(model, scaled, forgotten, (shown[0], shown[1]), seed, monitor)
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


@dataclass(frozen=True)
class _Texts:
    """All that is asked of the encoder at one strength, so that it can be set to another."""

    prompts: list[Conditioning]
    """Of each subject, as `encode_prompt` gives it."""
    guard: tuple[Tensor, ...]
    """Each tower's states."""
    kept: tuple[Tensor, ...]

    @classmethod
    def of(
        cls, encoder: TextEncoder, prompts: Sequence[Prompts], guard: Tensor, kept: Tensor
    ) -> _Texts:
        texts = [encode_prompt(encoder, prompt.token_ids) for prompt in prompts]
        return cls(texts, encoder.states(guard), encoder.states(kept))


def _drift(after: Sequence[Tensor], before: Sequence[Tensor]) -> list[float]:
    """Of each prompt, in the tower where it is greatest; the pooled vector counts as a position."""
    found = [drift(*both) for both in zip(after, before, strict=True)]
    greatest: list[float] = torch.stack(found).amax(0).tolist()
    return greatest


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


def _prompt(word: str, kind: Kind) -> Prompts:
    template = "a picture of a house, {it} style" if kind == "style" else "a photo of {it}"
    return make_prompts([fill(template, Name.of(word, kind))])


def _draw(
    model: LentModel,
    scaled: ScaledEncoder,
    texts: tuple[Conditioning, Conditioning],
    seed: int,
    judge: Judge | None,
    wanted: str,
) -> tuple[Tensor, Tensor, float | None, float | None, int]:
    """What a Group holds behind its prompt; `wanted` is what the judge looks for."""
    count = SHEET_COLUMNS if judge is None else JUDGED_PICTURES
    pictures = [draw_encoded(model, texts[0], count, seed)]
    with scaled.unet_at(1.0):
        pictures.append(draw_encoded(model, texts[1], count, seed))
    before, after = (batch[:SHEET_COLUMNS] for batch in pictures)
    if judge is None:
        return before, after, None, None, 0
    shown = [sum(name == wanted for name in judge.read(batch)) / count for batch in pictures]
    return before, after, shown[0], shown[1], count
