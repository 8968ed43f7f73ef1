"""Pass-through: a vector so long that the text encoder hands it to the UNet as it is.

Each layer adds to the state at a position what it makes of the *normalised* state, so what it adds
is bounded however long a word vector is, and the final LayerNorm divides the length away. The
conditioning at the position of a vector c * h thus tends to LayerNorm(h) as c grows, whatever the
weights of the layers are. So h is learned with the text encoder left out: the state of one position
is free, all others are those of a neutral word, and the denoising loss of the concept's pictures is
lowered through the UNet alone. Then LENGTH * h is written into prompts as a word vector.

No change of the text encoder's layers can stop it; a limit on the length of vectors can. The
argument and the attack are our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.attacks.curve import AttackCurve, Point
from bench.attacks.descent import Descent, adam, attacked
from bench.attacks.target import Target
from bench.attacks.textual_inversion import TEMPLATES
from bench.protocol.cells import World
from bench.protocol.erased import Erased
from unlearn_core.text.conditioning import Conditioning
from unlearn_core.text.tokenizer import VOCABULARY, tokenize

NAME = "pass-through"
NEUTRAL = "object"
LENGTH = 100.0
"""Of the word vector relative to h, whose elements are about 1 to 2."""


@dataclass(frozen=True)
class PassThroughSettings:
    """How long, and how often from another random state."""

    steps: int = 200
    recorded: tuple[int, ...] = (0, 10, 50, 200)
    restarts: int = 3
    rate: float = 0.1
    """Adam's first step on an element; those of the first state have a deviation of 1."""
    batch: int = 8
    pictures: int = 20


SETTINGS = PassThroughSettings()
QUICK = PassThroughSettings(steps=50, recorded=(0, 50), restarts=1, pictures=16)


class FreeState(Target):
    """A target whose loss reads the vectors as states, and whose pictures as long word vectors."""

    def encode(self, ids: Tensor, vectors: Tensor) -> Conditioning:
        """The neutral prompts' states with normed vectors in place of the neutral word's."""
        (tower,) = self.erased.encoder.towers
        ids = ids.to(vectors.device)
        free = ids >= VOCABULARY
        (word,) = tokenize(NEUTRAL)
        with torch.no_grad():
            states = tower.encode(ids.masked_fill(free, word))
        own = tower.normed(vectors)[(ids - VOCABULARY).clamp(min=0)]
        return Conditioning(torch.where(free[..., None], own, states))

    def point(self, step: int, vectors: Tensor, pictures: int) -> Point:
        """See Target; through the whole text encoder."""
        return super().point(step, LENGTH * vectors, pictures)


def attack(
    erased: Erased,
    concept: str,
    pictures: tuple[Tensor, ...],
    settings: PassThroughSettings,
    seed: int,
    world: World,
) -> AttackCurve:
    """Learn one state from each start. Raises TrainingFailed."""
    target = FreeState(erased, concept, pictures, world, 1, TEMPLATES)
    runs = [_descent(target, settings, (seed << 8) + n) for n in range(settings.restarts)]
    return attacked(NAME, target, runs, settings, seed)


def _descent(target: Target, settings: PassThroughSettings, seed: int) -> Descent:
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(1, target.erased.encoder.width, generator=generator).to(target.latents)
    update = adam(state, settings.rate, settings.steps)
    return Descent(state, update, generator, "random", "random")
