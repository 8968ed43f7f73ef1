"""Muon: momentum whose update is made orthogonal, for the matrices of a network.

Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). The one in
torch takes matrices alone and works in bfloat16; this one takes convolutions and stays in float32,
which is what a plain CPU computes fast.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5
_MOMENTUM = 0.95


def orthogonal(matrix: Tensor) -> Tensor:
    """(m, n) -> about U V^T of its singular value decomposition, by Newton-Schulz iteration."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Parameters of two or more dimensions; a convolution counts as (out, in x h x w)."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0
    ) -> None:
        """`lr` in Adam's scale: an update has a root mean square of 0.2 `lr`."""
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].mul_(_MOMENTUM).add_(parameter.grad)
                ahead = parameter.grad + _MOMENTUM * momentum
                update = orthogonal(ahead.flatten(1))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                size = 0.2 * max(update.shape) ** 0.5
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * size)
