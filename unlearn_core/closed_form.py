"""The quick path: a LoRA by ridge least squares, without a loop.

The last trained layer's fc2 is solved for: its input g is what the layer has found out, its output
is added to the state h that the final LayerNorm reads. Over all positions p of the lessons

    min  sum_p w_p |dW g_p - (h*_p - h_p)|^2 + ridge |dW|^2

with h* the stand-in's state for prompts to forget and h* = h for prompts to keep. The normal
equations give dW = D G^T (G G^T + ridge I)^-1, the form of UCE (Gandikota et al. 2024, arXiv
2308.14761, equation 7) for the text encoder; dW is then cut to the LoRA's rank by SVD.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .free_memory import give_memory_back
from .lessons import ForgetLesson, Lesson, gather_targets
from .lora import EncoderLora
from .lora_keys import ModuleKey
from .losses import RoleScales
from .text_encoder import TextEncoder

TOKENS = 1024
"""In one pass through the trained layers."""
RIDGE = 1e-3
"""Relative to the mean of the Gram matrix' diagonal."""


@torch.no_grad()
def solve(
    encoder: TextEncoder,
    lora: EncoderLora,
    forget: Sequence[ForgetLesson],
    keep: Sequence[Lesson],
    scales: RoleScales,
    keep_weight: float,
    bases: dict[ModuleKey, Tensor],
) -> bool:
    """Set `lora` to the least-squares solution; False if it has no fc2 to solve for."""
    keys = [key for key in lora.modules if key.module == "fc2"]
    if not keys:
        return False
    key = keys[-1]
    basis = bases.get(key)
    width_in = lora.down(key).shape[1]
    gram = torch.zeros(width_in, width_in, device=encoder.device)
    cross = torch.zeros(encoder.width, width_in, device=encoder.device)

    with lora.disabled():
        for lesson in forget:
            for rows in _batches(lesson):
                part = lesson.rows(rows)
                inputs, own = _look(encoder, lora, key, part.states)
                _, other = _look(encoder, lora, key, lesson.stand_in_states[rows])
                wanted = gather_targets(own, other, lesson.source[rows]) - own
                _add(gram, cross, inputs, wanted, _weights(part.roles, scales), basis)
        for kept in keep:
            for rows in _batches(kept):
                part = kept.rows(rows)
                inputs, own = _look(encoder, lora, key, part.states)
                weight = _weights(part.roles, scales) * keep_weight
                _add(gram, cross, inputs, torch.zeros_like(own), weight, basis)

    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    wide = gram.cpu().double()
    del gram
    give_memory_back()
    up, down = _cut_to_rank(_divide(cross.cpu().double(), wide), lora.rank)
    lora.up(key).copy_(up.float())
    lora.down(key).copy_(down.float())
    return True


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


def _look(
    encoder: TextEncoder, lora: EncoderLora, key: ModuleKey, states: Tensor
) -> tuple[Tensor, Tensor]:
    """(input of the projection `key`, the state that leaves its layer), (n, T, ...) each."""
    seen: list[Tensor] = []
    layer = encoder.layers[key.layer]
    hooks = [
        lora.frozen(key).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])),
        layer.register_forward_hook(
            lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
        ),
    ]
    try:
        encoder.tail(states)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0].float(), seen[1]


def _weights(roles: Tensor, scales: RoleScales) -> Tensor:
    """(n, T): every role of a prompt weighs the same, in units of its variance."""
    counts = torch.stack([(roles == role).sum(1) for role in range(len(scales.variance))], 1)
    per_position = counts.gather(1, roles).clamp(min=1).float()
    return 1 / (per_position * scales.variance[roles])


def _add(
    gram: Tensor,
    cross: Tensor,
    inputs: Tensor,
    wanted: Tensor,
    weight: Tensor,
    basis: Tensor | None,
) -> None:
    flat = inputs.flatten(0, 1)
    if basis is not None:
        flat = flat - (flat @ basis) @ basis.T
    weighted = flat * weight.flatten()[:, None]
    gram.addmm_(weighted.T, flat)
    cross.addmm_(wanted.flatten(0, 1).T, weighted)
