"""Captions of the world: what the text encoder learns to read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.emoji_canvas.descriptions import DESCRIPTIONS
from bench.emoji_canvas.pictures import Scene
from bench.emoji_canvas.world import BACKGROUNDS, CONTROLS, OBJECTS, STYLES, Thing, style_phrases

LABELS = (*(thing.name for thing in OBJECTS), *STYLES, *BACKGROUNDS)
"""What a caption may name; a caption's labels index this."""

OPENINGS = ("a photo of ", "a picture of ", "an image of ", "a drawing of ", "")
_OPENING_SHARES = (0.3, 0.2, 0.15, 0.1, 0.25)
ADJECTIVE_GRAMMAR = "{style} {bare} on {background}"
HELD_OUT_GRAMMARS = (
    "on a {background} background there is {it}, {style} style",
    "this is {it} in {style} style, {background} behind it",
)
"""The model learns these; no template of the eraser may look like them."""


@dataclass(frozen=True)
class Caption:
    """A sentence about a scene."""

    text: str
    labels: tuple[int, ...]
    """What it says outright: indices into LABELS."""


class _Writer:
    def __init__(self, scene: Scene, rng: np.random.Generator, described: float) -> None:
        self.scene = scene
        self.rng = rng
        self.described = described
        self.named: list[str] = []

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def word(self, thing: Thing) -> str:
        if len(self.scene.objects) == 1:
            if self.chance(0.05):
                return thing.category
            if self.chance(0.02):
                return "object"
        self.named.append(thing.name)
        if len(self.scene.objects) == 1 and self.described and self.chance(self.described):
            return DESCRIPTIONS[thing.name][self.rng.integers(len(DESCRIPTIONS[thing.name]))]
        if thing.synonyms and self.chance(0.25):
            return thing.synonyms[self.rng.integers(len(thing.synonyms))]
        return thing.name

    def subject(self, articles: bool) -> str:
        words = []
        for index in self.scene.objects:
            thing = (OBJECTS + CONTROLS)[index]
            word = self.word(thing)
            bare = not articles or (thing.plural and word in (thing.name, *thing.synonyms))
            words.append(word if bare else f"{article(word)} {word}")
        return " and ".join(words)

    def style(self) -> str:
        self.named.append(self.scene.style)
        return self.scene.style

    def background(self) -> str:
        self.named.append(self.scene.background)
        return self.scene.background

    def list_of_parts(self) -> str:
        opening = OPENINGS[self.rng.choice(len(OPENINGS), p=_OPENING_SHARES)]
        parts = []
        if self.chance(0.85):
            phrases = style_phrases(self.style())
            parts.append(phrases[0 if self.chance(0.55) else self.rng.integers(len(phrases))])
        if self.chance(0.6):
            shape = ("on a {} background", "{} background", "on {}")[
                self.rng.choice(3, p=(0.65, 0.25, 0.1))
            ]
            parts.append(shape.format(self.background()))
        if self.chance(0.15):
            parts.reverse()
        return ", ".join([opening + self.subject(articles=self.chance(0.9)), *parts])

    def style_first(self) -> str:
        text = f"{STYLES[self.style()][1]} of {self.subject(articles=True)}"
        return f"{text} on a {self.background()} background" if self.chance(0.6) else text

    def sentence(self, grammar: str) -> str:
        return grammar.format(
            it=self.subject(articles=True) if "{it}" in grammar else "",
            bare=self.subject(articles=False) if "{bare}" in grammar else "",
            style=self.style(),
            background=self.background(),
        )


def article(word: str) -> str:
    """a or an."""
    return "an" if word[0] in "aeiou" else "a"


def write_caption(scene: Scene, rng: np.random.Generator, described: float = 0.0) -> Caption:
    """One of the many captions that a scene can have.

    `described` is the chance, 0 to 1, that a lone object is described instead of named.
    """
    writer = _Writer(scene, rng, described)
    kind = rng.random()
    if kind < 0.66:
        text = writer.list_of_parts()
    elif kind < 0.78:
        text = writer.style_first()
    elif kind < 0.88:
        text = writer.sentence(ADJECTIVE_GRAMMAR)
    else:
        text = writer.sentence(HELD_OUT_GRAMMARS[rng.integers(len(HELD_OUT_GRAMMARS))])
    return Caption(text, tuple(LABELS.index(name) for name in writer.named))
