"""Other stand-ins than the engine would choose."""

from __future__ import annotations

import dataclasses

from unlearn_core.concept import Concept
from unlearn_core.forgetting.run import UnlearnRun
from unlearn_core.words.neighbours import look_around
from unlearn_core.words.prompts import Name
from unlearn_core.words.stand_in import candidates


class EmptyStandInRun(UnlearnRun):
    """Nothing takes the concept's place: "a photo of a dog" becomes "a photo of"."""

    def _decide(self, concept: Concept) -> None:
        super()._decide(concept)
        _replace_stand_in(self, Name("", (), False))


class FarStandInRun(UnlearnRun):
    """The candidate takes the concept's place that is farthest from it."""

    def _decide(self, concept: Concept) -> None:
        super()._decide(concept)
        possible = candidates(concept, look_around(self.encoder, concept))
        word, _ = min(possible, key=lambda pair: pair[1])
        _replace_stand_in(self, Name.of(word, concept.kind))


def _replace_stand_in(run: UnlearnRun, name: Name) -> None:
    part = run.parts[-1]
    run._plans[-1] = dataclasses.replace(run._plans[-1], stand_in=name)
    stand_in = dataclasses.replace(part.stand_in, word=name.text)
    run.parts[-1] = dataclasses.replace(part, stand_in=stand_in)
