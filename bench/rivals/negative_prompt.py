"""Negative prompt: the concept in the branch of guidance that a picture is pushed away from.

No paper's method but what every interface offers: classifier-free guidance (Ho and Salimans 2022,
arXiv 2207.12598) with the prompt "" of the unguided branch replaced by the concept, as Stable
Diffusion's interfaces do it. Nothing is trained and no file is made, so it holds only as long as
the user writes it. Its strength is the guidance scale, which the benchmark fixes for all methods;
the sweep changes how the concept is written instead.

With guidance g a picture follows n + g (c - n) = g c - (g - 1) n. A concept that the prompt c asks
for by name as much as the negative prompt n does is left in it once: it is no longer amplified,
but drawn. What the method does keep away is a concept that the prompt did not ask for, as one
style among those that "a picture of a dog" may be drawn in. On dog, truck and sketch writing the
name four times took away more, and more of everything else, so `FITTED` is the plain name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bench.protocol.erased import Erased, Task
from bench.rivals.subject import checked_name, with_article


@dataclass(frozen=True)
class NegativePrompt:
    """How the concept is written; see the module."""

    template: str = "{bare}"
    """{bare} is the name, {it} the name with its article."""

    def __call__(self, base: Erased, task: Task) -> Erased:
        """Put the concept into the negative prompt. Raises BadConcept."""
        name = checked_name(task, base.encoder)
        it = name if task.kind == "style" else with_article(name)
        negative = self.template.format(bare=name, it=it)
        return dataclasses.replace(
            base, family="prompt", negative=negative, notes={"negative prompt": negative}
        )


PUBLISHED = NegativePrompt()
FITTED = PUBLISHED
SWEEP = (
    PUBLISHED,
    NegativePrompt("a photo of {it}"),
    NegativePrompt("{bare}, {it}, a picture of {it}"),
    NegativePrompt("{bare}, {bare}, {bare}, {bare}"),
)
