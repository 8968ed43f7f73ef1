"""How well the concept is forgotten and the rest is kept: numbers, and the pictures behind them.

Distances are `losses.role_distance`: 1 is as far as two random prompts lie apart. Every picture
before and after is drawn from the same noise. A judge names what pictures show; without one the
unchanged model reads them itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concept import Concept
from ..forgetting.held_out import kept_prompts
from ..forgetting.memory_plan import rows_that_fit
from ..lora.metadata import Forgotten
from ..models.lent_model import LentModel, Stoppable
from ..progress import DRAWING_BEFORE_AND_AFTER, Progress, RunMonitor, SilentMonitor, stop_if_asked
from ..text.conditioning import Conditioning
from ..text.text_encoder import TextEncoder
from ..training.losses import drift
from ..words.neighbours import KEPT_FIRST, look_around
from ..words.prompt_templates import GUARD_PROMPTS
from ..words.prompts import Prompts, whole_prompts
from ..words.stand_in import choose_stand_in, draws_in_seconds
from .descriptions import known_descriptions
from .drawing import draw_encoded, encode_prompt
from .judge import Judge
from .scaled_encoder import ScaledEncoder
from .self_judge import SelfJudge
from .strength_curve import CurvePoint, recommend, strength_curve
from .subjects import NEAR, PICTURES, SHEET_COLUMNS, Role, Subject, subjects_of

READABLE = 0.8
"""The share of its own pictures of the concept in which a model must see it to be its judge."""


@dataclass(frozen=True)
class Group:
    """Pictures of one prompt before and after, from the same noise."""

    role: Role
    word: str
    prompt: str
    before: Tensor
    """(n, 3, h, w) float32 in [-1, 1]: the first SHEET_COLUMNS."""
    after: Tensor
    asked: str = ""
    """What the judge was asked about: the word itself, of OWN_ROLES the concept."""
    read_before: tuple[str | None, ...] = ()
    """What the judge saw in each picture, None for something else; empty where it was not asked."""
    read_after: tuple[str | None, ...] = ()

    @property
    def judged(self) -> int:
        """Pictures that a judge read, before and after each."""
        return len(self.read_before)

    @property
    def seen_before(self) -> int:
        """In how many of them the judge saw what it was asked about."""
        return self.read_before.count(self.asked)

    @property
    def seen_after(self) -> int:
        """The same after."""
        return self.read_after.count(self.asked)


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
    judged_by: str = ""
    """Who read the pictures."""

    @property
    def is_readable(self) -> bool:
        """Whether the judge sees the concept in READABLE of its pictures before."""
        own = self.groups[0]
        return own.judged > 0 and own.seen_before >= READABLE * own.judged


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
    also: Sequence[str] = (),
    pictures: Mapping[Role, int] | None = None,
) -> Evaluation:
    """Compare the lent model before and after; raises WrongModel, BadSettings, Cancelled.

    Descriptions that mean the concept without naming it are drawn too: those of `also`, and known
    ones where drawing takes seconds. Without a judge the unchanged model reads the pictures.
    `pictures` says how many of each role are read instead of PICTURES.
    """
    monitor.report(Progress(DRAWING_BEFORE_AND_AFTER))
    if pictures is None:
        pictures = PICTURES if draws_in_seconds(model) else {}
    at_once = 2 * max(pictures.values(), default=SHEET_COLUMNS)
    model = Stoppable(model, monitor, rows_that_fit(model, at_once))
    kind = forgotten.concept.kind
    unchanged = scaled.set_strength(0.0)
    if kind != "style" and draws_in_seconds(model):
        also = (*also, *known_descriptions(unchanged, forgotten.names))
    subjects = subjects_of(forgotten, unchanged, also)
    guard = whole_prompts(GUARD_PROMPTS).token_ids
    kept = kept_prompts(kind, forgotten.kept).token_ids
    before, after = (
        _Texts.of(scaled.set_strength(strength), [s.prompt for s in subjects], guard, kept)
        for strength in (0.0, 1.0)
    )
    drawn = _draw_all(model, scaled, subjects, pictures, before, after, seed, monitor)
    if judge is None:
        judge = _self_judge(model, forgotten, subjects, before, drawn[0][0], seed)
    groups = _read_all(judge, subjects, drawn, monitor)
    guard_drift = _drift(after.guard, before.guard)
    shown = tuple(
        next((group for group in groups if group.role == role), groups[0]).prompt
        for role in ("concept", "neighbour")
    )
    curve = strength_curve(model, scaled, forgotten, (shown[0], shown[1]), seed, monitor, judge)
    return Evaluation(
        forgotten,
        groups,
        guard_drift[0],
        dict(zip(GUARD_PROMPTS[1:], guard_drift[1:], strict=True)),
        dict(zip(forgotten.kept, _drift(after.kept, before.kept), strict=True)),
        tuple(curve),
        recommend(curve),
        seed,
        judge.by,
    )


def _self_judge(
    model: LentModel,
    forgotten: Forgotten,
    subjects: Sequence[Subject],
    before: _Texts,
    own: Tensor,
    seed: int,
) -> Judge:
    """The unchanged model, which has seen its own pictures of the concept."""
    texts = {s.word: text[:1] for s, text in zip(subjects, before.prompts, strict=True)}
    always = (forgotten.concept.name, forgotten.stand_in, *forgotten.kept[:NEAR])
    judge = SelfJudge(model, texts, before.prompts[0][1:], always, seed)
    judge.see_own(own)
    return judge.as_judge()


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


def _draw_all(
    model: LentModel,
    scaled: ScaledEncoder,
    subjects: Sequence[Subject],
    counts: Mapping[Role, int],
    before: _Texts,
    after: _Texts,
    seed: int,
    monitor: RunMonitor,
) -> list[tuple[Tensor, Tensor]]:
    """Each subject's pictures before and after, (n, 3, h, w) both."""
    drawn = []
    for number, subject in enumerate(subjects):
        stop_if_asked(monitor)
        count = counts.get(subject.role, SHEET_COLUMNS)
        first = draw_encoded(model, before.prompts[number], count, seed)
        with scaled.unet_at(1.0):
            second = draw_encoded(model, after.prompts[number], count, seed)
        drawn.append((first, second))
        monitor.report(Progress(DRAWING_BEFORE_AND_AFTER, number + 1, 2 * len(subjects)))
    return drawn


def _read_all(
    judge: Judge,
    subjects: Sequence[Subject],
    drawn: Sequence[tuple[Tensor, Tensor]],
    monitor: RunMonitor,
) -> tuple[Group, ...]:
    groups = []
    for number, (subject, pictures) in enumerate(zip(subjects, drawn, strict=True)):
        stop_if_asked(monitor)
        read = [judge.look(part, subject.asked) for part in pictures]
        shown = [part[:SHEET_COLUMNS] for part in pictures]
        role, word, prompt = subject.role, subject.word, subject.prompt.texts[0]
        groups.append(
            Group(role, word, prompt, shown[0], shown[1], subject.asked, read[0], read[1])
        )
        done = len(subjects) + number + 1
        monitor.report(Progress(DRAWING_BEFORE_AND_AFTER, done, 2 * len(subjects)))
    return tuple(groups)
