"""When the loop is done: held-out prompts are where they should be, and move no further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..lora.encoder_lora import EncoderLora
from .examples import Examples
from .losses import RoleScales, role_distance

EVERY = 10
"""Steps from one look to the next."""
COOL_DOWN = 10
"""Steps from the one that ends it to the last one, in which the rate falls."""
REACHED = 0.3
"""Of the squared distance to the stand-in may be left at most."""
LEVEL = 0.02
"""A look has found no progress where less than this of the squared distance was gained."""


@dataclass(frozen=True)
class HeldOut:
    """Prompts of one tower that no step is trained on."""

    lora: EncoderLora
    scales: RoleScales
    forget: Sequence[Examples]
    """Of the concepts; their targets are the stand-ins'."""
    keep: Sequence[Examples]

    @torch.no_grad()
    def distances(self) -> tuple[float, float]:
        """Mean distance of what is forgotten and of what is kept from their targets."""
        return self._mean(self.forget), self._mean(self.keep)

    def _mean(self, parts: Sequence[Examples]) -> float:
        tower = self.lora.tower
        found = [
            role_distance(tower.tail(part.states, part.ends), part.targets, part.roles, self.scales)
            for part in parts
        ]
        return float(torch.cat(found).mean())


class StopWhenDone:
    """Looks at held-out prompts every few steps, and keeps the weights that were best there."""

    def __init__(self, parts: Sequence[HeldOut], keep_weight: float) -> None:
        """Look at what is not trained yet."""
        self._parts, self._keep_weight = parts, keep_weight
        self._start, _ = self._distances()
        self._last = self._best = float("inf")
        self._weights: list[Tensor] = []

    def look(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Whether the concept is gone in held-out prompts and nothing gets better any more."""
        forget, keep = self._distances()
        left = forget / max(self._start, 1e-12)
        cost = left + self._keep_weight * keep
        if cost < self._best:
            self._best = cost
            self._weights = [parameter.detach().clone() for parameter in parameters]
        is_level = cost > self._last - LEVEL
        self._last = cost
        return left < REACHED and is_level

    @torch.no_grad()
    def take_best(self, parameters: Sequence[nn.Parameter]) -> None:
        """Put the weights of the best look back."""
        for parameter, weight in zip(parameters, self._weights, strict=True):
            parameter.copy_(weight)

    def _distances(self) -> tuple[float, float]:
        found = [part.distances() for part in self._parts]
        return (
            sum(forget for forget, _ in found) / len(found),
            sum(keep for _, keep in found) / len(found),
        )
