"""The quick path: a LoRA by ridge least squares, without a loop.

The last trained layer's fc2 is solved for: its input g is what the layer has found out, its output
is added to the state h that the final LayerNorm reads. Over all positions p of the lessons

    min  sum_p w_p |dW g_p - (h*_p - h_p)|^2 + ridge |dW|^2

with h* the stand-in's state for prompts to forget and h* = h for prompts to keep. The normal
equations give dW = D G^T (G G^T + ridge I)^-1, the form of UCE (Gandikota et al. 2024, arXiv
2308.14761, equation 7) for the text encoder; dW is then cut to the LoRA's rank by SVD.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..lora.encoder_lora import EncoderLora
from ..lora.keys import ModuleKey
from ..models.devices import give_memory_back
from ..text.text_encoder import TextEncoder
from .examples import ForgetLesson, Lesson, gather_targets
from .losses import RoleScales

TOKENS = 1024
"""In one pass through the trained layers."""
RIDGE = 1e-3
"""Relative to the mean of the Gram matrix' diagonal."""


class LeastSquares:
    """The normal equations of a LoRA's last fc2: lessons are added to them one after the other.

    No lesson is needed any more once it was added.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        lora: EncoderLora,
        key: ModuleKey,
        scales: RoleScales,
        basis: Tensor | None,
    ) -> None:
        """For the projection `key`, see `solved_for`; what `basis` (in, m) spans is left out."""
        self._encoder, self._lora, self._key = encoder, lora, key
        self._scales, self._basis = scales, basis
        width_in = lora.down(key).shape[1]
        self._gram = torch.zeros(width_in, width_in, device=encoder.device)
        self._cross = torch.zeros(encoder.width, width_in, device=encoder.device)

    @torch.no_grad()
    def forget(self, lessons: Iterable[ForgetLesson]) -> None:
        """The concept's prompts get the stand-in's states."""
        with self._lora.disabled():
            for lesson in lessons:
                for rows in _batches(lesson):
                    part = lesson.rows(rows)
                    inputs, own = self._look(part.states)
                    _, other = self._look(lesson.stand_in_states[rows])
                    wanted = gather_targets(own, other, lesson.source[rows]) - own
                    self._add(inputs, wanted, _weights(part.roles, self._scales))

    @torch.no_grad()
    def keep(self, lessons: Iterable[Lesson], weight: float) -> None:
        """These prompts stay; `weight` is theirs against the prompts to forget."""
        with self._lora.disabled():
            for lesson in lessons:
                for rows in _batches(lesson):
                    part = lesson.rows(rows)
                    inputs, own = self._look(part.states)
                    counts = _weights(part.roles, self._scales) * weight
                    self._add(inputs, torch.zeros_like(own), counts)

    @torch.no_grad()
    def solve(self) -> None:
        """Write the solution into the LoRA; the equations are used up."""
        gram = self._gram
        gram.diagonal().add_(RIDGE * gram.diagonal().mean())
        wide = gram.cpu().double()
        del gram, self._gram
        give_memory_back()
        change = _divide(self._cross.cpu().double(), wide)
        up, down = _cut_to_rank(change, self._lora.rank)
        self._lora.up(self._key).copy_(up.float())
        self._lora.down(self._key).copy_(down.float())

    def _look(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """(input of the projection, the state that leaves its layer), (n, T, ...) each."""
        seen: list[Tensor] = []
        layer = self._encoder.layers[self._key.layer]
        projection = self._lora.frozen(self._key)
        hooks = [
            projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])),
            layer.register_forward_hook(
                lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
            ),
        ]
        try:
            self._encoder.tail(states)
        finally:
            for hook in hooks:
                hook.remove()
        return seen[0].float(), seen[1]

    def _add(self, inputs: Tensor, wanted: Tensor, weight: Tensor) -> None:
        flat, basis = inputs.flatten(0, 1), self._basis
        if basis is not None:
            flat = flat - (flat @ basis) @ basis.T
        weighted = flat * weight.flatten()[:, None]
        self._gram.addmm_(weighted.T, flat)
        self._cross.addmm_(wanted.flatten(0, 1).T, weighted)


def solved_for(lora: EncoderLora) -> ModuleKey | None:
    """The projection that the least squares solve for: the last fc2, if the LoRA changes one."""
    return next((key for key in reversed(lora.modules) if key.module == "fc2"), None)


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


def _batches(lesson: Lesson) -> tuple[Tensor, ...]:
    rows = torch.arange(len(lesson), device=lesson.states.device)
    return torch.split(rows, max(1, TOKENS // lesson.length))


def _weights(roles: Tensor, scales: RoleScales) -> Tensor:
    """(n, T): every role of a prompt weighs the same, in units of its variance."""
    counts = torch.stack([(roles == role).sum(1) for role in range(len(scales.variance))], 1)
    per_position = counts.gather(1, roles).clamp(min=1).float()
    return 1 / (per_position * scales.variance[roles])
