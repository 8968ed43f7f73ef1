"""Distances between text-encoder states, as pure functions of tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..words.prompts import ROLE_BOS, ROLE_POOLED

ROLE_COUNT = 6
VARIANCE_FLOOR = 0.01
SMALLEST = 1e-12
"""Variance of the pooled vector, lest one prompt alone divides by zero."""


@dataclass(frozen=True)
class RoleScales:
    """The variance of the unchanged encoder's states in each role.

    Dividing by it makes a distance unit-free: 1 is as far as two random prompts lie apart, on a
    tiny model and on a full one.
    """

    variance: Tensor
    """(6,) float32, one per role; of a token at least 1 % of the variance over all tokens."""

    @classmethod
    def measure(cls, states: Tensor, roles: Tensor) -> RoleScales:
        """From states (..., width) float32 of a few hundred prompts with roles (...)."""
        of_token = states[roles != ROLE_POOLED]
        total = of_token.var(dim=0, unbiased=False).mean()
        variance = torch.full((ROLE_COUNT,), float(total))
        for role in range(ROLE_COUNT):
            chosen = states[roles == role]
            if len(chosen) > 1:
                variance[role] = chosen.var(dim=0, unbiased=False).mean()
        # BOS is the same in every prompt: measured against everything, it has its own guard.
        variance[ROLE_BOS] = total
        # The pooled vector is of another size: the text projection has made it.
        pooled = max(float(variance[ROLE_POOLED]), SMALLEST)
        variance = variance.clamp(min=float(total) * VARIANCE_FLOOR)
        variance[ROLE_POOLED] = pooled
        return cls(variance.to(states.device))


def role_distance(states: Tensor, targets: Tensor, roles: Tensor, scales: RoleScales) -> Tensor:
    """Mean squared distance in units of each role's variance, roles weighed alike. (N,) float32.

    states and targets (N, T, width), roles (N, T), T counting the pooled vector too. Every role
    that a prompt has counts the same, however many positions it fills: one EOS weighs as much as
    sixty pads.
    """
    squared = (states - targets).pow(2).mean(dim=-1) / scales.variance[roles]
    total = squared.new_zeros(len(squared))
    roles_present = squared.new_zeros(len(squared))
    for role in range(ROLE_COUNT):
        mask = (roles == role).to(squared.dtype)
        count = mask.sum(dim=1)
        present = (count > 0).to(squared.dtype)
        total = total + present * (squared * mask).sum(dim=1) / count.clamp(min=1)
        roles_present = roles_present + present
    return total / roles_present


def role_weights(roles: Tensor, scales: RoleScales) -> Tensor:
    """The weight of each position where squared distances are summed as `role_distance` does.

    (N, T) float32 from roles (N, T); not divided by the number of roles that a prompt has.
    """
    counts = torch.stack([(roles == role).sum(1) for role in range(ROLE_COUNT)], 1)
    per_position = counts.gather(1, roles).clamp(min=1).float()
    return 1 / (per_position * scales.variance[roles])


def drift(states: Tensor, before: Tensor) -> Tensor:
    """Greatest relative change |E - E0| / |E0| over all rows but that of BOS. (N,) float32.

    Both (N, T, width), as a tower gives them.
    """
    change = (states - before)[:, 1:].norm(dim=-1)
    size = before[:, 1:].norm(dim=-1).clamp(min=1e-12)
    greatest: Tensor = (change / size).amax(dim=1)
    return greatest
