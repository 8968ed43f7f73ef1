"""The preset deep: its settings, and the presets that the command line offers with it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..errors import BadSettings
from ..settings import PRESET_HELP, PRESETS

DEEP = "deep"
TEXT_PRESET = "quick"
"""The preset of the text encoder's part."""
OFFERED = (*PRESETS, DEEP)
"""Without a host; the hosts offer PRESETS."""
OFFERED_HELP = {
    **PRESET_HELP,
    DEEP: "quick, and a LoRA of the UNet trained against learned vectors; slow, one object.",
}

MAY_BE_ZERO = (
    "seed", "steps", "learning_rate", "keep_weight", "push", "words", "fours", "states",
)  # fmt: skip


@dataclass(frozen=True)
class DeepSettings:
    """How the UNet's LoRA is trained. Raises BadSettings on construction."""

    seed: int = 0
    steps: int = 240
    rank: int = 16
    learning_rate: float = 3e-3
    """Peak rate of Adam on the factors."""
    keep_weight: float = 4.0
    """Of what is kept, beside what is forgotten."""
    push: float = 1.0
    """How far beyond the stand-in the prediction goes, away from the concept."""
    words: int = 8
    """Adversaries of one word vector."""
    fours: int = 2
    """Adversaries of four."""
    states: int = 2
    """Adversaries of one free state that passes through the text encoder."""
    forget_rows: int = 2
    """Noised pictures of the concept that each adversary sees in a step."""
    keep_rows: int = 28
    """Noised pictures in a step on which nothing may change."""
    age: int = 40
    """Mean number of steps after which an adversary begins anew."""
    pictures: int = 96
    """Drawn of the concept, and as many of the stand-in."""
    kept_pictures: int = 256
    """Drawn of what is kept."""

    def __post_init__(self) -> None:
        """Check every value."""
        for item in dataclasses.fields(self):
            value, lowest = getattr(self, item.name), 0 if item.name in MAY_BE_ZERO else 1
            if not lowest <= value < 2**31:  # also refuses NaN
                raise BadSettings(f"{item.name} is {value}; it must be at least {lowest}.")
        if not self.adversaries:
            raise BadSettings("The preset deep needs an adversary: words, fours or states.")

    @property
    def adversaries(self) -> int:
        """All of them together."""
        return self.words + self.fours + self.states
