"""The quick path: a LoRA by ridge least squares, without a loop.

The last trained layer's fc2 is solved for: its input g is what the layer has found out, its output
is added to the state h that conditions the picture. Over all positions p of the examples

    min  sum_p w_p |dW g_p - (h*_p - h_p)|^2 + ridge |dW|^2

with h* the stand-in's state for prompts to forget and h* = h for prompts to keep. The normal
equations give dW = D G^T (G G^T + ridge I)^-1, the form of UCE (Gandikota et al. 2024, arXiv
2308.14761, equation 7) for the text encoder; dW is then cut to the LoRA's rank by SVD.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import Tensor

from ..lora.encoder_lora import EncoderLora, captured
from ..lora.keys import ModuleKey
from ..models.devices import give_memory_back
from .examples import Examples, ForgetExamples, gather_targets
from .losses import RoleScales, role_weights

TOKENS = 1024
"""In one pass through the trained layers."""
RIDGE = 1e-3
"""Relative to the mean of the Gram matrix' diagonal."""
POOLED_RIDGE = 0.1
"""The same for the pooled vector, of which each prompt has one row only. Of 0.001, 0.01 and 0.1 it
forgets as well and keeps most (dog and car on the demo model of SDXL)."""


class LeastSquares:
    """The normal equations of one fc2 of a LoRA: examples are added to them one after the other.

    None are needed any more once they were added. An fc2 behind the conditioning layer moves the
    pooled vector alone, so it is solved for at EOS, on top of what the LoRA changes before it.
    """

    def __init__(
        self,
        lora: EncoderLora,
        key: ModuleKey,
        scales: RoleScales,
        basis: Tensor | None,
    ) -> None:
        """For the projection `key`, see `solved_for`; what `basis` (in, m) spans is left out."""
        tower = lora.tower
        self._lora, self._key = lora, key
        self._scales, self._basis = scales, basis
        self._pooled = key.layer > tower.conditioning_layer
        width_in = lora.down(key).shape[1]
        self._gram = torch.zeros(width_in, width_in, device=tower.device)
        self._cross = torch.zeros(tower.width, width_in, device=tower.device)

    @torch.no_grad()
    def forget(self, parts: Iterable[ForgetExamples]) -> None:
        """The concept's prompts get the stand-in's states."""
        for examples in parts:
            for rows in _batches(examples):
                batch, source = examples.rows(rows), examples.source[rows]
                ends = source.gather(1, batch.ends[:, None]).flatten()
                inputs, now = self._look(batch.states, batch.ends, changed=self._pooled)
                _, other = self._look(examples.stand_in_states[rows], ends)
                wanted = other
                if not self._pooled:
                    wanted = gather_targets(now, other, source[:, : now.shape[1]])
                self._add(inputs, wanted - now, self._weights(batch.roles))

    @torch.no_grad()
    def retain(self, parts: Iterable[Examples], weight: float) -> None:
        """These prompts stay; `weight` is theirs against the prompts to forget."""
        for examples in parts:
            for rows in _batches(examples):
                batch = examples.rows(rows)
                inputs, now = self._look(batch.states, batch.ends, changed=self._pooled)
                before = now
                if self._pooled:
                    _, before = self._look(batch.states, batch.ends)
                self._add(inputs, before - now, self._weights(batch.roles) * weight)

    @torch.no_grad()
    def solve(self) -> None:
        """Write the solution into the LoRA; the equations are used up."""
        gram = self._gram
        ridge = POOLED_RIDGE if self._pooled else RIDGE
        gram.diagonal().add_(ridge * gram.diagonal().mean())
        wide = gram.cpu().double()
        del gram, self._gram
        give_memory_back()
        change = _divide(self._cross.cpu().double(), wide)
        up, down = _cut_to_rank(change, self._lora.rank)
        self._lora.up(self._key).copy_(up.float())
        self._lora.down(self._key).copy_(down.float())

    def _look(self, states: Tensor, ends: Tensor, changed: bool = False) -> tuple[Tensor, Tensor]:
        """(input of the projection, the state that leaves its layer), (n, positions, ...) each.

        `changed`: with the LoRA as it is now. Of the pooled vector's layers only EOS is looked at.
        """
        key = self._key
        projection, layer = self._lora.frozen(key), self._lora.tower.layers[key.layer]
        unchanged = nullcontext() if changed else self._lora.disabled()
        with unchanged, captured({key: projection}, {key: layer}) as (inputs, outputs):
            self._lora.tower.tail(states, ends)
        seen, left = inputs[key].float(), outputs[key]
        if self._pooled:
            rows = torch.arange(len(ends), device=ends.device)
            return seen[rows, ends][:, None], left[rows, ends][:, None]
        return seen, left

    def _weights(self, roles: Tensor) -> Tensor:
        """Of each position, see `role_weights`."""
        if self._pooled:
            return torch.ones(len(roles), 1, device=roles.device)
        return role_weights(roles[:, : roles.shape[1] - self._lora.tower.extra], self._scales)

    def _add(self, inputs: Tensor, wanted: Tensor, weight: Tensor) -> None:
        flat, basis = inputs.flatten(0, 1), self._basis
        if basis is not None:
            flat = flat - (flat @ basis) @ basis.T
        weighted = flat * weight.flatten()[:, None]
        self._gram.addmm_(weighted.T, flat)
        self._cross.addmm_(wanted.flatten(0, 1).T, weighted)


def solved_for(lora: EncoderLora) -> list[ModuleKey]:
    """The projections that the least squares solve for, in their order.

    The last fc2 that the LoRA changes up to the conditioning layer, then the last one behind it,
    if it changes any.
    """
    found = [key for key in lora.modules if key.module == "fc2"]
    first = [key for key in found if key.layer <= lora.tower.conditioning_layer]
    return [*first[-1:], *found[len(first) :][-1:]]


def _divide(cross: Tensor, gram: Tensor) -> Tensor:
    """cross @ gram^-1 for a positive definite (n, n) gram, which is overwritten by its root.

    At SD2's size that is 134 MB once instead of four times. The transposed views are what LAPACK
    takes as it is.
    """
    root = gram.mT
    failed = torch.empty((), dtype=torch.int32)
    torch.linalg.cholesky_ex(root, check_errors=True, out=(root, failed))
    half = torch.linalg.solve_triangular(root, cross.T, upper=False)
    solved: Tensor = torch.linalg.solve_triangular(root.mT, half, upper=True)
    return solved.T


def _cut_to_rank(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product up @ down, (out, rank) and (rank, in), both of the same size.

    By the eigenvectors of change @ change.T: a few of its `out` directions are wanted, and `in` is
    four times as many.
    """
    energy, vectors = torch.linalg.eigh(change @ change.T)
    left = vectors.flip(1)[:, :rank]
    root = energy.flip(0)[:rank].clamp(min=0).sqrt().sqrt()
    right = left.T @ change
    return left * root, right / root.clamp(min=1e-30)[:, None]


def _batches(examples: Examples) -> tuple[Tensor, ...]:
    rows = torch.arange(len(examples), device=examples.states.device)
    return torch.split(rows, max(1, TOKENS // examples.length))
