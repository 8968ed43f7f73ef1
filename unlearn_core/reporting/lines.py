"""What is said of a run and of its result, in lines that people read first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..forgetting.held_out import ENOUGH, WHAT_TO_TRY
from ..forgetting.unlearn import UnlearnResult
from ..measuring.evaluation import Evaluation, Group
from ..measuring.judge import wilson
from ..measuring.subjects import OWN_ROLES
from ..words.naming import FoundWords

SEEN_AT_MOST = 0.1
"""Pictures that show the concept after, of those that did before, up to which it is forgotten."""


def run_lines(result: UnlearnResult) -> list[str]:
    """What a run has done: forgotten, drawn instead, kept; memory; what the user should know."""
    stand_in = result.stand_in
    return [
        *([words_line(result.found)] if result.found else ()),
        f"{verdict(result.part.moved_doubt is None)}: {', '.join(result.names)}",
        f"drawn in its place: {stand_in.word} (chosen by {stand_in.chosen_by})",
        f"kept first: {', '.join(result.kept) or 'nothing in particular'}",
        f"memory: {result.memory.in_words()}",
        *(f"note: {note}" for note in result.notes),
    ]


def words_line(found: FoundWords) -> str:
    """The model's words for the pictures, best first."""
    return f"the model's words for these pictures: {found.in_words()}"


def main_numbers(evaluation: Evaluation) -> list[str]:
    """How well the concept is forgotten, by descriptions too; the rest kept; which strength to use.

    Three lines, or four where a judge saw the concept in pictures of descriptions.
    """
    point = min(evaluation.curve, key=lambda p: abs(p.strength - 1))
    named, described, rest = _parts(evaluation)
    gone = is_gone(evaluation)
    moved = (
        f"moved {point.forgotten:.0%} of the way to" if point.forgotten >= 0 else "moved away from"
    )
    return [
        f"{verdict(gone)}: {_seen_by_name(evaluation, named)}its prompts {moved} "
        f"{evaluation.forgotten.stand_in!r} (in prompts that were not trained)"
        f"{'' if gone else f'. {WHAT_TO_TRY}'}",
        *([f"not named: {_seen(described).removesuffix('; ')}"] if counts(described)[1] else ()),
        f"kept: {_seen(rest)}prompts with kept words stay {point.kept:.1%} the same",
        f"strength: use {evaluation.recommended_strength:g}; the empty prompt changes by "
        f"{evaluation.drift_of_empty:.2%}",
    ]


def is_gone(evaluation: Evaluation) -> bool:
    """By pictures in which the judge saw the concept before, else by the way to the stand-in."""
    if evaluation.is_readable:
        _, before, after = counts(_parts(evaluation)[0])
        return after <= SEEN_AT_MOST * before
    return min(evaluation.curve, key=lambda p: abs(p.strength - 1)).forgotten >= ENOUGH


def headline(evaluation: Evaluation) -> dict[str, str]:
    """The main numbers as notes in a LoRA's file; no word of the concept is in them."""
    judged, before, after = counts(_parts(evaluation)[0])
    seen = {
        "unlearn_seen_before": f"{before} of {judged}",
        "unlearn_seen_after": f"{after} of {judged}",
        "unlearn_judged_by": evaluation.judged_by,
    }
    return {"unlearn_verdict": verdict(is_gone(evaluation)), **(seen if judged else {})}


def verdict(gone: bool) -> str:
    """In words."""
    return "forgotten" if gone else "not forgotten"


def _parts(evaluation: Evaluation) -> tuple[list[Group], list[Group], list[Group]]:
    """Groups of the concept's names, of its descriptions, and of other things."""
    own = [group for group in evaluation.groups if group.role in OWN_ROLES]
    return (
        [group for group in own if group.role != "description"],
        [group for group in own if group.role == "description"],
        [group for group in evaluation.groups if group.role not in OWN_ROLES],
    )


def counts(groups: Iterable[Group]) -> tuple[int, int, int]:
    """Pictures that were read, and in how many the judge saw what it looked for before, after."""
    read = [(group.judged, group.seen_before, group.seen_after) for group in groups]
    judged, before, after = (sum(column) for column in zip((0, 0, 0), *read, strict=True))
    return judged, before, after


def tally(read: Sequence[str | None]) -> dict[str, int]:
    """How often each thing was seen, most often first."""
    return {word or "something else": count for word, count in Counter(read).most_common()}


def _seen_by_name(evaluation: Evaluation, named: Sequence[Group]) -> str:
    first = named[0]
    if first.judged and not evaluation.is_readable:
        return (
            f"pictures not readable, since {evaluation.judged_by} sees {first.word} in "
            f"{first.seen_before} of its {first.judged} before; "
        )
    return _seen(named, evaluation.judged_by)


def _seen(groups: Sequence[Group], judge: str = "") -> str:
    """How many pictures showed their word before and after; nothing where no judge looked."""
    judged, before, after = counts(groups)
    if not judged:
        return ""
    words = ", ".join(group.word for group in groups if group.judged)
    by = f" by {judge}" if judge else ""
    low, high = wilson(after, judged)
    return (
        f"{words} seen{by} in {before} of {judged} pictures before, {after} after "
        f"({low:.0%} to {high:.0%}); "
    )
