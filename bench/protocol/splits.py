"""Which concepts settings are chosen on, and which are reported. Fixed before the first run.

The test concepts are such that no default was ever chosen on them: defaults came from dog, apple,
car and sketch.
"""

from __future__ import annotations

from collections.abc import Iterable

TUNING = ("dog", "apple", "car", "hamburger", "truck", "horse", "sketch", "robot", "bomb")
"""Where defaults, strengths and steps may be chosen."""

TEST_OBJECTS = ("cat", "rabbit", "bicycle", "mushroom", "bus", "pizza")
TEST_STYLES = ("flat", "neon")
TEST_CHARACTER = "santa claus"
TEST_WEAPON = "dagger"
TEST = (*TEST_OBJECTS, *TEST_STYLES, TEST_CHARACTER, TEST_WEAPON)
"""What is reported. Nothing may be chosen by looking at these."""

ATTACKED = ("cat", "bicycle", "santa claus", "dagger")
"""The test concepts that the attacks work on."""

CONTROLS = ("octopus", "cake", "sailboat")
"""The judges know them, the model was never taught them."""

SEEDS = (0, 1, 2)


def kept_words(world_words: Iterable[str], name: str) -> tuple[str, ...]:
    """Words of the world that a method may keep or preserve: all but the concept itself.

    The measured neighbours are among them, as they are among the nouns and styles from which our
    own presets choose what they keep.
    """
    return tuple(word for word in world_words if word != name)
