"""A table's words that may name some pictures, chosen without comparing them all on the pictures.

Textual inversion from a neutral word, as in `inversion`; then the words whose states are near to
those of what was learned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .concept import Concept, Kind
from .diffusion_classifier import STAGE
from .inversion import invert
from .lent_model import LentModel, Progress, RunMonitor
from .prompts import Name, fill, make_prompts
from .settings import UnlearnSettings
from .shared_beginnings import encode_all
from .stand_in import plain_template
from .text_encoder import TextEncoder
from .word_tables import nouns, styles

SIFTED = 64
"""Words that go through the sift, besides one of each further category."""
SIFT_STEPS = 100
"""Steps of the inversion that sifts."""
NEUTRAL = {"style": "art"}
"""Where the sift's inversion starts, for each kind; else at a thing."""


def sift_words(
    model: LentModel,
    encoder: TextEncoder,
    images: Sequence[Tensor],
    latents: Tensor,
    kind: Kind,
    words: Sequence[str],
    settings: UnlearnSettings,
    monitor: RunMonitor,
) -> list[str]:
    """The SIFTED words nearest to vectors learned from the pictures, and one a category.

    Nearness is the mean-removed cosine at EOS, as in the choice of a stand-in.
    """
    neutral = Concept(NEUTRAL.get(kind, "thing"), kind=kind, images=tuple(images))
    settings = settings.replace(inversion_steps=SIFT_STEPS, inversion_vectors=1)
    learned = invert(model, encoder, neutral, settings, (), _Renamed(monitor), latents)
    names = [learned.name(neutral), *(Name.of(word, kind) for word in words)]
    prompts = make_prompts([fill(plain_template(neutral), name) for name in names])
    ids = prompts.token_ids[:, : int(prompts.ends.max()) + 1]
    vectors = learned.vectors.to(encoder.device)
    _, conditioning = encode_all(encoder, ids, vectors, monitor)
    states = conditioning[torch.arange(len(names)), prompts.ends]
    unit = functional.normalize(states - states.mean(0), dim=1)
    order = (unit[1:] @ unit[0]).argsort(descending=True, stable=True).tolist()
    near = [words[i] for i in order]
    first = {_category(word, kind): word for word in reversed(near)}
    kept = {*near[:SIFTED], *first.values()}
    return [word for word in near if word in kept]


def _category(word: str, kind: Kind) -> str:
    return styles()[word].category if kind == "style" else nouns()[word].category


class _Renamed:
    """A monitor that takes every stage for the reading of the pictures."""

    shows_pictures = False

    def __init__(self, monitor: RunMonitor) -> None:
        self._monitor = monitor
        self.should_stop = monitor.should_stop

    def report(self, progress: Progress) -> None:
        self._monitor.report(dataclasses.replace(progress, stage=STAGE))
