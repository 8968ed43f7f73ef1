"""What the eraser is told: more or fewer pictures, no or a meaningless name, a stand-in."""

from __future__ import annotations

from collections.abc import Callable

from bench.erased import Erased
from bench.task_pictures import drawn_pictures
from unlearn_core.concept import Concept, Nameless
from unlearn_core.progress import SilentMonitor
from unlearn_core.unlearn import find_name

NONSENSE = "glimpf"
"""A word that no model was taught."""
BY_HAND = {"dog": "cat", "truck": "car", "sketch": "flat"}
"""Tuning concept -> what a person who knows the model's words would put in its place."""
DRAWN_SEED = 6_700
"""Of pictures beyond those of the task; the other seeds are in `task_pictures` and `attacks`."""

Told = Callable[[Concept, Erased, int], Concept]
"""(concept, unchanged model, seed) -> the concept as the eraser gets it."""


def as_it_is(concept: Concept, base: Erased, seed: int) -> Concept:
    """The name and the five pictures."""
    return concept


def with_pictures(count: int) -> Told:
    """So many pictures: the concept's own, beyond those some that the unchanged model draws."""

    def tell(concept: Concept, base: Erased, seed: int) -> Concept:
        more = count - len(concept.images)
        styles = (concept.name,) if concept.kind == "style" else ()
        drawn = drawn_pictures(base, styles, DRAWN_SEED, more)(concept.name) if more > 0 else ()
        return concept.replace(images=(*concept.images, *drawn)[:count])

    return tell


def without_name(concept: Concept, base: Erased, seed: int) -> Concept:
    """The pictures alone; the name is the model's own word for them. Raises as `find_name`."""
    nameless = Nameless(kind=concept.kind, images=concept.images)
    return find_name(base.model, nameless, seed, SilentMonitor())[0]


def under_a_nonsense_name(concept: Concept, base: Erased, seed: int) -> Concept:
    """The pictures, and NONSENSE for a name."""
    return concept.replace(name=NONSENSE)


def to_a_stand_in(concept: Concept, base: Erased, seed: int) -> Concept:
    """What takes its place, by BY_HAND."""
    return concept.replace(stand_in=BY_HAND[concept.name])
