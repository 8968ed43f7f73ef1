"""What a general word takes with it, and what a name of two words leaves.

    python -m bench trial what_is_meant [--preset quick] [--seeds 0,1,2]

On the demo model. "fruit", "animal" and "vehicle" are forgotten as words and with their kinds;
"neon cat" and "delivery truck" with what they are made of kept, as it is by itself, and not. Read
are pictures of the name (does the judge see one of the kinds, or the thing of which it is made?),
of each kind or part by its own name, and of all other objects. No setting was chosen on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.methods.preset import with_lora
from bench.protocol.cells import World
from bench.protocol.erased import Erased
from bench.protocol.layout import SEED_STEP, draw
from bench.protocol.metrics import Share
from bench.protocol.setup import open_model
from bench.report.tables import markdown, percent
from unlearn_core.concept import Concept
from unlearn_core.forgetting import run
from unlearn_core.forgetting.unlearn import unlearn
from unlearn_core.settings import PRESETS, preset
from unlearn_core.words.neighbours import keeping_parts, known_kinds

NAMED, EACH, REST = 48, 8, 120
"""Pictures of the name, of each kind or part, and of all other objects."""


@dataclass(frozen=True)
class Case:
    """A concept, and whether what its name is made of is kept."""

    concept: Concept
    keeps_parts: bool = True

    @property
    def label(self) -> str:
        """For the table."""
        how = "" if self.keeps_parts else ", parts not kept"
        return f"{self.concept.name}, covers {self.concept.covers}{how}"


CASES = (
    *(Case(Concept(name, covers="word")) for name in ("fruit", "animal", "vehicle")),
    *(Case(Concept(name, covers="kinds")) for name in ("fruit", "animal", "vehicle")),
    *(
        Case(Concept(name), keeps)
        for name in ("neon cat", "delivery truck")
        for keeps in (False, True)
    ),
)


def forgotten(base: Erased, case: Case, method: str, seed: int) -> Erased:
    """The base without the concept."""
    keeping = run.keeping_parts
    if not case.keeps_parts:
        run.keeping_parts = lambda encoder, concept, together=(): concept
    try:
        return with_lora(base, unlearn(base.model, case.concept, preset(method, seed=seed)).lora)
    finally:
        run.keeping_parts = keeping


def things_of(base: Erased, world: World, concept: Concept) -> list[str]:
    """The objects of the world that are kinds of a concept, or of which its name is made."""
    kept = keeping_parts(base.encoder, concept).keep
    return [word for word in (*known_kinds(base.encoder, concept), *kept) if word in world.objects]


def readings(
    base: Erased, erased: Erased, world: World, concept: Concept, seed: int
) -> Iterator[Share]:
    """Of the name, of its kinds or parts, and of the rest: the share that shows what it should."""
    things = things_of(base, world, concept)
    rest = [word for word in world.objects if word not in things]
    start = SEED_STEP * seed
    named = world.cell([(concept.name, concept.name)], NAMED, start + 1)
    seen = world.read(draw(erased, named)).objects
    yield Share(sum(name in things for name in seen), NAMED)
    for words, count, number in ((things, EACH * len(things), 2), (rest, REST, 3)):
        cell = world.cell([(word, word) for word in words], count, start + number)
        yield Share.of(world.agreement(cell, draw(erased, cell))["object"])


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
    for case in CASES:
        cells = []
        found: list[tuple[list[Share], list[Share]]] = []
        for seed in map(int, chosen.seeds.split(",")):
            erased = forgotten(base, case, chosen.preset, seed)
            before, after = (
                list(readings(base, side, world, case.concept, seed)) for side in (base, erased)
            )
            found.append((before, after))
        for question in range(3):
            sides = (sum((one[side][question] for one in found), Share(0, 0)) for side in (0, 1))
            cells.append(" → ".join(map(percent, sides)))
        lines.append((case.label, *cells))
        print(" | ".join(lines[-1]), flush=True)
    headers = ("concept", "its name shows one", "kinds or parts by name", "other objects")
    print(markdown(headers, lines))
