"""What a general word takes with it, and what a name of two words leaves.

    python -m bench trial what_is_meant [--preset quick] [--seeds 0,1,2]

On the demo model. "fruit", "animal" and "vehicle" are forgotten as words and with their kinds;
"neon cat", "sketch bus" and "cartoon apple" as names of two words. Read are pictures of the name
(does the judge see one of the kinds, or both of the things of which the name is made?), of each
kind, or of the noun in other styles, by its own name, and of all other objects.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.methods.preset import with_lora
from bench.protocol.cells import World
from bench.protocol.erased import Erased
from bench.protocol.layout import SEED_STEP, draw
from bench.protocol.metrics import Share
from bench.protocol.setup import open_model
from bench.report.tables import markdown, percent
from unlearn_core.concept import Concept, Covers
from unlearn_core.forgetting.unlearn import unlearn
from unlearn_core.settings import PRESETS, preset
from unlearn_core.words.neighbours import keeping_parts, known_kinds

NAMED, EACH, REST = 48, 8, 120
"""Pictures of the name, of each kind or the noun, and of all other objects."""
PLAIN = ("a photo of {it}", "{it} on {background}", "{bare} on {background}")
"""Grammars that name no style."""
FORMS: tuple[Covers, ...] = ("word", "kinds")
CASES = (
    *(Concept(name, covers=form) for form in FORMS for name in ("fruit", "animal", "vehicle")),
    *(Concept(name) for name in ("neon cat", "sketch bus", "cartoon apple")),
)


def readings(
    base: Erased, erased: Erased, world: World, concept: Concept, seed: int
) -> tuple[Share, Share, Share]:
    """Of the name, of its kinds or its noun, of the rest: the share that shows what it should."""
    parts = keeping_parts(base.encoder, concept).keep
    words = (*known_kinds(base.encoder, concept), *parts)
    things = [word for word in words if word in world.objects]
    styles = [word for word in parts if word in world.styles]
    others = [style for style in world.styles if style not in styles]
    rest = [word for word in world.objects if word not in things]
    start, name = SEED_STEP * seed, concept.name
    seen = world.read(draw(erased, world.cell([(name, name)], NAMED, start + 1, grammars=PLAIN)))
    both = zip(seen.objects, seen.styles, strict=True)
    shown = sum(o in things and (not styles or s in styles) for o, s in both)

    def right(words: Sequence[str], count: int, number: int) -> Share:
        cell = world.cell([(word, word) for word in words], count, start + number, others)
        return Share.of(world.agreement(cell, draw(erased, cell))["object"])

    return Share(shown, NAMED), right(things, max(24, EACH * len(things)), 2), right(rest, REST, 3)


def main(words: Sequence[str]) -> None:
    """Print a line for each case, before and after."""
    parser = argparse.ArgumentParser(
        prog="python -m bench trial what_is_meant",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--seeds", default="0,1,2")
    chosen = parser.parse_args(words)
    base, world, _ = open_model("demo")
    lines = []
    for concept in CASES:
        before = after = (Share(0, 0),) * 3
        for seed in map(int, chosen.seeds.split(",")):
            result = unlearn(base.model, concept, preset(chosen.preset, seed=seed))
            erased = with_lora(base, result.lora)
            before = _added(before, readings(base, base, world, concept, seed))
            after = _added(after, readings(base, erased, world, concept, seed))
        cells = [f"{percent(a)} → {percent(b)}" for a, b in zip(before, after, strict=True)]
        lines.append((concept.name, concept.covers, result.stand_in.word, *cells))
        print(" | ".join(lines[-1]), flush=True)
    headers = ("concept", "covers", "stand-in", "its name", "kinds, or the noun", "other objects")
    print(markdown(headers, lines))


def _added(sums: Sequence[Share], more: Sequence[Share]) -> tuple[Share, ...]:
    return tuple(a + b for a, b in zip(sums, more, strict=True))
