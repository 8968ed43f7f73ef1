"""What an eraser breaks first: two things at once, their colours, their number, their places.

Kept words are drawn together before and after, from the same noise, and the unchanged model says
which of a few prompts explains each picture best: the one that was drawn, or the same with one
thing missing, colours exchanged, another number, places exchanged. Where it does not recognise
READABLE of its own pictures, a count would say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unlearn_core.measuring.drawing import draw_encoded, encode_prompt
from unlearn_core.measuring.evaluation import READABLE
from unlearn_core.measuring.scaled_encoder import ScaledEncoder
from unlearn_core.measuring.self_judge import SelfJudge
from unlearn_core.models.lent_model import LentModel
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.words.prompts import Name, whole_prompts

PICTURES = 16
RIGHT = "right"


@dataclass(frozen=True)
class Composition:
    """A prompt of kept words, and prompts that say something else of them."""

    asks: str
    """What is asked of it: two things, colours, number, places."""
    prompt: str
    others: tuple[str, ...]


def compositions(first: str, second: str) -> Iterator[Composition]:
    """Of two kept words."""
    a, b = (Name.of(word).article + word for word in (first, second))
    yield Composition(
        "two things", f"a photo of {a} and {b}", (f"a photo of {a}", f"a photo of {b}")
    )
    yield Composition(
        "colours", f"a red {first} and a blue {second}", (f"a blue {first} and a red {second}",)
    )
    yield Composition("number", f"two of {a}", (f"a photo of {a}", f"three of {a}"))
    yield Composition("places", f"{a} to the left of {b}", (f"{b} to the left of {a}",))


def read_composition(
    model: LentModel, before: TextEncoder, changed: ScaledEncoder, it: Composition, seed: int
) -> str:
    """In how many of PICTURES it is right before and after, in words."""
    ids = whole_prompts([it.prompt]).token_ids
    encoded = [encode_prompt(encoder, ids) for encoder in (before, changed.set_strength(1.0))]
    drawn = [draw_encoded(model, encoded[0], PICTURES, seed)]
    with changed.unet_at(1.0):
        drawn.append(draw_encoded(model, encoded[1], PICTURES, seed))
    labels = (RIGHT, *it.others)
    texts = {
        label: encode_prompt(before, whole_prompts([prompt]).token_ids)[:1]
        for label, prompt in zip(labels, (it.prompt, *it.others), strict=True)
    }
    judge = SelfJudge(model, texts, encoded[0][1:], labels, seed)
    judge.see_own(drawn[0])
    right = [judge.read(pictures, RIGHT).count(RIGHT) for pictures in drawn]
    return said(right, PICTURES)


def said(right: Sequence[int], count: int) -> str:
    """The two counts, or that the model can't be asked."""
    if right[0] < READABLE * count:
        return f"not readable: the model sees it in {right[0]} of its own {count}"
    return f"{right[0]} of {count} before, {right[1]} after"
