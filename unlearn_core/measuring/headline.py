"""What a user should see first of a run and of an evaluation, as plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from ..unlearn import UnlearnResult
from ..words.naming import FoundWords
from .evaluation import Evaluation, Group


def run_lines(result: UnlearnResult) -> list[str]:
    """What a run has done: forgotten, drawn instead, kept; memory; what the user should know."""
    stand_in = result.stand_in
    return [
        *([words_line(result.found)] if result.found else ()),
        f"forgotten: {', '.join(result.names)}",
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
    return [
        f"forgotten: {_seen(own)}its prompts moved {point.forgotten:.0%} of the way to "
        f"{stand_in!r} (in grammars that were not trained)",
        f"kept: {_seen(rest)}prompts with kept words stay {point.kept:.1%} the same",
        f"strength: use {evaluation.recommended_strength:g}; the empty prompt changes by "
        f"{evaluation.drift_of_empty:.2%}",
    ]


def _seen(groups: Sequence[Group]) -> str:
    """How many pictures showed their word before and after; nothing where no judge looked."""
    judged = [group for group in groups if group.judged]
    if not judged:
        return ""
    count = sum(group.judged for group in judged)
    before = sum((group.shown_before or 0) * group.judged for group in judged)
    after = sum((group.shown_after or 0) * group.judged for group in judged)
    words = ", ".join(group.word for group in judged)
    return f"{words} seen in {before:.0f} of {count} pictures before, {after:.0f} after; "
