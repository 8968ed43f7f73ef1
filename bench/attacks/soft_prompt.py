"""Soft-prompt PGD: the embeddings of a whole prompt and of free tokens before it, in a ball.

The attack of AdvUnlearn (Zhang et al. 2024, arXiv 2405.15234) and UnlearnDiffAtk (Zhang et al.
2023, arXiv 2310.11868) in our words: signed gradient steps, projected onto an L-infinity ball
(Madry et al. 2018, arXiv 1706.06083), that lower the denoising loss of the concept's pictures.

It is stronger than the adversary of `robust`, which trains against vectors that bring the *text
states* of the concept back. This one works through the UNet on pictures, so it also finds what
draws the concept from other states; it moves every word of the prompt and free tokens before it,
not the name alone; it takes five times the steps on the finished model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.attacks.curve import AttackCurve
from bench.attacks.descent import Descent, attacked, random_vectors, word_size
from bench.attacks.target import Target, Templates
from bench.protocol.cells import World
from bench.protocol.erased import Erased
from unlearn_core.text.tokenizer import tokenize
from unlearn_core.words.prompts import Name

NAME = "soft prompt"
TEMPLATES = Templates(plain=("<v>",), styled=("<v>, {style} style",))
NEUTRAL = "object"
LAST_STEP = 0.1
"""Of the first step size, at the last step."""


@dataclass(frozen=True)
class SoftPromptSettings:
    """The ball, and how it is searched."""

    prompt: str = "a photo of {it}"
    word: str = ""
    """What stands for {it}: the concept's own name if empty and the model knows it, else object."""
    free: int = 3
    """Tokens before the prompt, which start at random."""
    radius: float = 0.5
    """Most change of an element, relative to the size of a word vector's elements. Chosen on dog:
    0.1 brings little back, 0.5 nearly all, while octopus (never learned) stays rare."""
    step: float = 0.1
    """First step of an element, relative to the radius; the last one is a tenth of it."""
    steps: int = 100
    recorded: tuple[int, ...] = (0, 10, 100)
    restarts: int = 3
    """The first starts at the prompt itself, the others at random points of the ball."""
    batch: int = 8
    pictures: int = 20


SETTINGS = SoftPromptSettings()
QUICK = SoftPromptSettings(steps=50, recorded=(0, 50), restarts=1, pictures=16)


def attack(
    erased: Erased,
    concept: str,
    pictures: tuple[Tensor, ...],
    settings: SoftPromptSettings,
    seed: int,
    world: World,
) -> AttackCurve:
    """Search the ball from each start. Raises TrainingFailed."""
    word = settings.word or (concept if erased.encoder.knows(concept) else NEUTRAL)
    prompt = settings.prompt.format(it=Name.of(word).article + word)
    count = settings.free + len(tokenize(prompt))
    target = Target(erased, concept, pictures, world, count, TEMPLATES)
    runs = descents(target, settings, prompt, seed)
    return attacked(NAME, target, runs, settings, seed)


def descents(target: Target, settings: SoftPromptSettings, prompt: str, seed: int) -> list[Descent]:
    """`settings.restarts` of (free + words of the prompt) vectors."""
    return [_descent(target, settings, prompt, seed, number) for number in range(settings.restarts)]


def _descent(
    target: Target, settings: SoftPromptSettings, prompt: str, seed: int, number: int
) -> Descent:
    generator = torch.Generator().manual_seed((seed << 8) + number)
    table = target.erased.encoder.word_table
    free = random_vectors(table, settings.free, generator)
    centre = torch.cat([free, table[tokenize(prompt)]])
    radius = settings.radius * word_size(table)
    start = centre.clone()
    if number:
        start += radius * (2 * torch.rand(centre.shape, generator=generator).to(centre) - 1)

    def update(vectors: Tensor, gradient: Tensor, step: int) -> None:
        left = 1 - (1 - LAST_STEP) * step / settings.steps
        vectors -= settings.step * radius * left * gradient.sign()
        vectors.copy_(centre + (vectors - centre).clamp(-radius, radius))

    return Descent(start, update, generator, prompt, "ball" if number else "prompt")
