"""Whether a concept is gone however its name is typed: signs, plurals, lists, weights.

    python -m bench trial typed_names [--preset quick] [--names snowman 'cat, owl' ...]

Each text goes through the door that all hosts use, and what it names is drawn 24 times before and
after, from the same noise, by its plain word and by the text itself. Dog, apple, horse and truck
are tuning concepts; owl and fox are no test concepts either.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from bench.methods.preset import with_lora
from bench.protocol.cells import World, draw_cell
from bench.protocol.setup import open_model
from bench.report.tables import markdown
from unlearn_core.concept import Concept
from unlearn_core.forgetting.unlearn import unlearn
from unlearn_core.models.lent_model import LentModel
from unlearn_core.settings import PRESETS, preset
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.word_tables import find_noun

TYPED = (
    "dog", '"dog"', "dog!", "dog.", "(dog:1.4)", "\u202edog", "a dog", "Dog", "dogs", "dog, puppy",
    "dog, owl", "dog;owl", "dog/owl", "dog-owl", "dog_owl", "dog & owl", "apple", "apples.",
    "'apple', horse, \"truck\"",
)  # fmt: skip
PICTURES = 24


def things(typed: str, world: World) -> list[str]:
    """The objects of the world that a text names."""
    nouns = map(find_noun, re.split(r"[\W_]+", typed))
    return list(dict.fromkeys(n.word for n in nouns if n and n.word in world.objects))


def shown(world: World, model: LentModel, encoder: TextEncoder, word: str, thing: str) -> int:
    """In how many of PICTURES drawn for a word the judge sees the thing."""
    cell = world.cell([(word, thing)], PICTURES, seed=1)
    return world.read(draw_cell(model, encoder, cell)).objects.count(thing)


def main(words: Sequence[str]) -> None:
    """Print a line for each text and thing."""
    parser = argparse.ArgumentParser(
        prog="python -m bench trial typed_names",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--names", nargs="+", default=TYPED, metavar="TEXT")
    chosen = parser.parse_args(words)
    base, world, _ = open_model("demo")
    lines = []
    for typed in chosen.names:
        result = unlearn(base.model, Concept.from_text(typed), preset(chosen.preset))
        result.check_moved()
        after = with_lora(base, result.lora).encoder
        for thing in things(typed, world):
            words = dict.fromkeys((thing, *result.concept.names))
            named = [word for word in words if word == thing or thing in things(word, world)]
            counts = [
                f"{word}: {shown(world, base.model, base.encoder, word, thing)} -> "
                f"{shown(world, base.model, after, word, thing)}"
                for word in named
            ]
            lines.append([repr(typed), thing, result.stand_in.word, ", ".join(counts)])
            print(" | ".join(lines[-1]), flush=True)
    print(markdown(("typed", "thing", "in its place", f"shown of {PICTURES}, by word"), lines))
