"""Prompts in grammars that no run trains on, and how far a concept has moved in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..concept import Concept, Kind
from ..errors import TrainingFailed
from ..lora.encoder_lora import EncoderLora
from ..progress import RunMonitor
from ..text.text_encoder import TextEncoder
from ..training.examples import (
    Examples,
    ForgetExamples,
    forget_examples,
    gather_targets,
    retain_examples,
)
from ..training.losses import RoleScales, role_distance
from ..words.prompts import (
    ROLE_POOLED,
    ForgetPrompts,
    Name,
    Prompts,
    fill,
    make_prompts,
    pair_prompts,
)

OBJECT_TEMPLATES = ("{it} in the style of a picture", "look at {it}", "this is {it}")
STYLE_TEMPLATES = ("a house in the style of {it}", "{it} art of a rose", "{it} car")
WATCHED_OBJECT = ("a view of {it} in the garden", "{it} as a picture", "a photo with {it} in it")
WATCHED_STYLE = ("a photo of a rose as {it}", "{it} picture of a house", "an image, all {it}")
"""For the end of the loop: others than those that are measured when it has ended."""
MOST_NAMES = 4
"""Names that are looked at: the user's come first."""
WHAT_TO_TRY = "Try another stand-in, the preset balanced, or more steps."
LEAST_MOVED = 0.25
"""Of the way to the stand-in. The presets move a concept by 0.8 and more, `balanced` after 10 of
its steps by 0.04 (demo model, dog and flat)."""
ENOUGH = 0.8
"""Of the way to the stand-in: what has moved less does not count as forgotten."""
LEAST_APART = 0.01
"""Distance of concept and stand-in, 1 being that of two random prompts. On the demo model synonyms
have 0.007 and less, a concept and the stand-ins that are chosen for it 0.6 and more."""


@dataclass(frozen=True)
class Moved:
    """How far a concept's held-out prompts have moved."""

    share: float
    """Distance moved / distance to the stand-in, before; 1 is all the way, wherever it leads."""
    apart: float
    """How far concept and stand-in lay apart before, as `role_distance` counts."""
    way: float
    """1 - distance to the stand-in / distance before: 1 is there, below 0 is farther away. Where
    the training has no stand-in (ascent), `share`."""

    def doubt(self, concept: Concept, stand_in: str) -> str | None:
        """A sentence for the user where the concept does not count as forgotten."""
        if self.way >= ENOUGH:
            return None
        moved = f"moved {self.way:.0%} of the way to" if self.way >= 0 else "moved away from"
        return (
            f"{concept.name!r} does not count as forgotten: in prompts that were not trained it "
            f"has {moved} {stand_in!r}. {WHAT_TO_TRY}"
        )

    def check(self, concept: Concept, stand_in: str) -> None:
        """Raise TrainingFailed if the concept is where it was."""
        if self.apart < LEAST_APART:
            raise TrainingFailed(
                f"To this model {stand_in!r} means the same as {concept.name!r}, so nothing would "
                "be forgotten, and nothing is written. Name another stand-in."
            )
        if not self.share >= LEAST_MOVED:
            raise TrainingFailed(
                f"In prompts that were not trained {concept.name!r} has moved by {self.share:.0%} "
                f"of the way to {stand_in!r} only, so it is not forgotten, and nothing is written. "
                "Give more steps or a higher learning rate, or take a preset as it is."
            )


@torch.no_grad()
def measure_moved(
    encoder: TextEncoder,
    loras: Sequence[EncoderLora],
    names: Sequence[str],
    kind: Kind,
    stand_in: str,
    scales: Sequence[RoleScales],
    anywhere: bool = False,
) -> Moved:
    """Compare each tower with and without its LoRA on held-out prompts with a concept's names.

    Names that the model has no vector for are left out, unless there are no others. `anywhere`: the
    training aimed at no stand-in.
    """
    known = known_names(encoder, names)
    prompts = concept_prompts(known[:MOST_NAMES], kind, stand_in)
    length = int(prompts.ends.max()) + 1  # the encoder is causal: what follows changes nothing
    ids, source = prompts.token_ids[:, :length], prompts.source[:, :length]
    others = prompts.stand_in_ids[:, : int(source.max()) + 1]
    apart = moved = left = 0.0
    for lora, scale in zip(loras, scales, strict=True):
        tower = lora.tower
        roles = tower.extended(prompts.roles[:, :length], ROLE_POOLED).to(tower.device)
        after = tower.encode(ids)
        with lora.disabled():
            before, stood_for = tower.encode(ids), tower.encode(others)
        wanted = gather_targets(before, stood_for, tower.extended(source, others.shape[1]))
        apart += float(role_distance(before, wanted, roles, scale).mean()) / len(loras)
        moved += float(role_distance(after, before, roles, scale).mean()) / len(loras)
        left += float(role_distance(after, wanted, roles, scale).mean()) / len(loras)
    share, way = ((moved / max(apart, 1e-12)) ** 0.5, 1 - left / max(apart, 1e-12))
    return Moved(share, apart, share if anywhere else way)


def known_names(encoder: TextEncoder, names: Sequence[str]) -> Sequence[str]:
    """Those that the model has a vector for, or all of them where it has none."""
    return [name for name in names if encoder.knows(name)] or names


def watched(
    lora: EncoderLora,
    names: Sequence[str],
    kept: Sequence[str],
    kind: Kind,
    stand_in: str,
    concepts: int,
    monitor: RunMonitor,
) -> tuple[list[ForgetExamples], list[Examples]]:
    """Held-out prompts of a concept, and of the words that stay, as a tower reads them.

    Of several concepts each has its share of them, so that a look costs about as much as at one.
    """
    templates = WATCHED_STYLE if kind == "style" else WATCHED_OBJECT
    names = names[: math.ceil(MOST_NAMES / concepts)]
    kept = kept[: math.ceil(len(kept) / concepts)]
    concept = concept_prompts(names, kind, stand_in, templates)
    stays = kept_prompts(kind, (*kept, stand_in), templates)
    forget = forget_examples(lora, concept, None, monitor)
    return forget, retain_examples(lora, stays, monitor)


def kept_prompts(kind: Kind, words: Sequence[str], templates: Sequence[str] = ()) -> Prompts:
    """A prompt for each word, the grammars taking turns."""
    templates = templates or measured_templates(kind)
    names = [Name.of(word, kind) for word in words]
    return make_prompts([fill(templates[i % len(templates)], name) for i, name in enumerate(names)])


def concept_prompts(
    names: Sequence[str], kind: Kind, stand_in: str, templates: Sequence[str] = ()
) -> ForgetPrompts:
    """A concept's names in each grammar, aligned with the stand-in's prompts."""
    other = Name.of(stand_in, kind)
    return pair_prompts(
        [
            (fill(template, Name.of(word, kind)), fill(template, other))
            for template in templates or measured_templates(kind)
            for word in names
        ]
    )


def measured_templates(kind: Kind) -> tuple[str, ...]:
    """The grammars in which a result is measured."""
    return STYLE_TEMPLATES if kind == "style" else OBJECT_TEMPLATES
