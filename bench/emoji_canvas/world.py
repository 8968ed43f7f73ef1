"""What exists in EmojiCanvas: objects, styles, backgrounds and their words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.emoji_canvas.descriptions import DESCRIPTIONS


@dataclass(frozen=True)
class Thing:
    """One object and where the emoji sets keep it."""

    name: str
    category: str
    icon: str
    """Its name in the iconify sets."""
    codepoint: str
    """Its file name in the 3d set, hexadecimal."""
    synonyms: tuple[str, ...] = ()
    plural: bool = False


def _thing(category: str, name: str, icon: str, codepoint: str, *synonyms: str) -> Thing:
    return Thing(name, category, icon, codepoint, synonyms, plural=name in _PLURALS)


_PLURALS = {"cherries", "scissors"}

OBJECTS = (
    _thing("animal", "dog", "dog-face", "1f436", "puppy"),
    _thing("animal", "cat", "cat-face", "1f431", "kitten"),
    _thing("animal", "fox", "fox", "1f98a"),
    _thing("animal", "wolf", "wolf", "1f43a"),
    _thing("animal", "bear", "bear", "1f43b"),
    _thing("animal", "panda", "panda", "1f43c"),
    _thing("animal", "lion", "lion", "1f981"),
    _thing("animal", "tiger", "tiger-face", "1f42f"),
    _thing("animal", "horse", "horse-face", "1f434", "pony"),
    _thing("animal", "cow", "cow-face", "1f42e"),
    _thing("animal", "pig", "pig-face", "1f437", "piglet"),
    _thing("animal", "rabbit", "rabbit-face", "1f430", "bunny"),
    _thing("animal", "frog", "frog", "1f438"),
    _thing("animal", "monkey", "monkey-face", "1f435"),
    _thing("animal", "penguin", "penguin", "1f427"),
    _thing("animal", "owl", "owl", "1f989"),
    _thing("animal", "elephant", "elephant", "1f418"),
    _thing("animal", "fish", "tropical-fish", "1f420"),
    _thing("animal", "butterfly", "butterfly", "1f98b"),
    _thing("animal", "bee", "honeybee", "1f41d"),
    _thing("animal", "turtle", "turtle", "1f422"),
    _thing("fruit", "apple", "red-apple", "1f34e", "red apple"),
    _thing("fruit", "tomato", "tomato", "1f345"),
    _thing("fruit", "cherries", "cherries", "1f352", "red cherries"),
    _thing("fruit", "strawberry", "strawberry", "1f353"),
    _thing("fruit", "banana", "banana", "1f34c"),
    _thing("fruit", "pineapple", "pineapple", "1f34d"),
    _thing("fruit", "watermelon", "watermelon", "1f349"),
    _thing("fruit", "lemon", "lemon", "1f34b"),
    _thing("plant", "rose", "rose", "1f339"),
    _thing("plant", "tulip", "tulip", "1f337"),
    _thing("plant", "sunflower", "sunflower", "1f33b"),
    _thing("plant", "cactus", "cactus", "1f335"),
    _thing("plant", "mushroom", "mushroom", "1f344", "toadstool"),
    _thing("vehicle", "car", "automobile", "1f697", "automobile"),
    _thing("vehicle", "bus", "bus", "1f68c"),
    _thing("vehicle", "truck", "delivery-truck", "1f69a", "delivery truck"),
    _thing("vehicle", "bicycle", "bicycle", "1f6b2", "bike"),
    _thing("vehicle", "airplane", "airplane", "2708-fe0f", "plane"),
    _thing("vehicle", "rocket", "rocket", "1f680"),
    _thing("food", "pizza", "pizza", "1f355"),
    _thing("food", "hamburger", "hamburger", "1f354", "burger"),
    _thing("thing", "house", "house", "1f3e0", "home"),
    _thing("thing", "umbrella", "umbrella", "2602-fe0f"),
    _thing("thing", "guitar", "guitar", "1f3b8"),
    _thing("tool", "hammer", "hammer", "1f528"),
    _thing("tool", "scissors", "scissors", "2702-fe0f"),
    _thing("weapon", "dagger", "dagger", "1f5e1-fe0f", "knife"),
    _thing("weapon", "bomb", "bomb", "1f4a3"),
    _thing("character", "santa claus", "santa-claus", "1f385", "father christmas"),
    _thing("character", "snowman", "snowman-without-snow", "26c4"),
    _thing("character", "robot", "robot", "1f916", "android"),
)
CONTROLS = (
    _thing("animal", "octopus", "octopus", "1f419"),
    _thing("food", "cake", "birthday-cake", "1f382"),
    _thing("vehicle", "sailboat", "sailboat", "26f5"),
)
"""Objects that the judges know and the generator has never seen."""

HYPERNYMS = (
    "animal", "fruit", "plant", "vehicle", "food", "thing", "tool", "weapon", "character", "object",
)  # fmt: skip

STYLES = {
    "cartoon": ("cartoon", "a cartoon"),
    "flat": ("flat icon", "a flat icon"),
    "3d": ("3d render", "a 3d render"),
    "sketch": ("pencil sketch", "a sketch"),
    "neon": ("neon sign", "a neon sign"),
}
"""Each style's word -> its noun phrase, and the same with an article, as captions say them."""

BACKGROUNDS = {
    "white": (245, 245, 245),
    "gray": (150, 150, 150),
    "black": (25, 25, 28),
    "red": (215, 70, 70),
    "orange": (240, 160, 80),
    "yellow": (245, 225, 110),
    "green": (95, 185, 105),
    "blue": (90, 140, 225),
    "purple": (155, 105, 205),
    "pink": (245, 170, 200),
}
"""Colour words -> mean RGB, 0 to 255."""
LIGHT_BACKGROUNDS = tuple(name for name in BACKGROUNDS if name not in ("black", "red"))


def style_phrases(style: str) -> tuple[str, ...]:
    """What a caption may append for a style."""
    return (f"{style} style", f"in {style} style", f"in the style of {style}", STYLES[style][0])


def world_json() -> dict[str, Any]:
    """The content of demo/world.json, see `load_demo_world`."""
    return {
        "objects": {
            thing.name: {
                "category": thing.category,
                "synonyms": list(thing.synonyms),
                "descriptions": list(DESCRIPTIONS[thing.name]),
            }
            for thing in OBJECTS
        },
        "controls": [thing.name for thing in CONTROLS],
        "hypernyms": list(HYPERNYMS),
        "plural_objects": [thing.name for thing in OBJECTS if thing.plural],
        "styles": {style: list(style_phrases(style)) for style in STYLES},
        "backgrounds": list(BACKGROUNDS),
    }
