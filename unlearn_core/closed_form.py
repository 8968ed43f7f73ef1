"""The quick path: a LoRA by ridge least squares, without a loop.

The last trained layer's fc2 is solved for: its input g is what the layer has found out, its output
is added to the state h that the final LayerNorm reads. Over all positions p of the lessons

    min  sum_p w_p |dW g_p - (h*_p - h_p)|^2 + ridge |dW|^2

with h* the stand-in's state for prompts to forget and h* = h for prompts to keep. The normal
equations give dW = D G^T (G G^T + ridge I)^-1, the form of UCE (Gandikota et al. 2024, arXiv
2308.14761, equation 7) for the text encoder; dW is then cut to the LoRA's rank by SVD.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .lora import EncoderLora
from .lora_keys import ModuleKey
from .losses import RoleScales
from .prompts import OWN_STATE, ForgetPrompts
from .text_encoder import TextEncoder
from .training import ENCODE_BATCH, Lesson

RIDGE = 1e-3
"""Relative to the mean of the Gram matrix' diagonal."""


@torch.no_grad()
def solve(
    encoder: TextEncoder,
    lora: EncoderLora,
    forget: Lesson,
    keep: Lesson,
    prompts: ForgetPrompts,
    scales: RoleScales,
    keep_weight: float,
    bases: dict[ModuleKey, Tensor],
) -> bool:
    """Set `lora` to the least-squares solution; False if it has no fc2 to solve for.

    `forget` is the lesson made of `prompts`.
    """
    keys = [key for key in lora.modules if key.module == "fc2"]
    if not keys:
        return False
    key = keys[-1]
    basis = bases.get(key)
    width_in = lora.down(key).shape[1]
    gram = torch.zeros(width_in, width_in, dtype=torch.float64)
    cross = torch.zeros(encoder.width, width_in, dtype=torch.float64)

    with lora.disabled():
        for rows in torch.arange(len(forget)).split(ENCODE_BATCH):
            inputs, own = _look(encoder, lora, key, forget.states[rows], forget.token_ids[rows])
            stand_in_ids = prompts.stand_in_ids[rows]
            _, other = _look(encoder, lora, key, encoder.prefix(stand_in_ids), stand_in_ids)
            source = prompts.source[rows].to(own.device)
            gathered = other.gather(1, source.clamp(min=0)[..., None].expand_as(own))
            wanted = torch.where((source == OWN_STATE)[..., None], own, gathered) - own
            weight = _weights(forget.roles[rows], scales)
            _add(gram, cross, inputs, wanted, weight, basis)
        for rows in torch.arange(len(keep)).split(ENCODE_BATCH):
            inputs, own = _look(encoder, lora, key, keep.states[rows], keep.token_ids[rows])
            weight = _weights(keep.roles[rows], scales) * keep_weight
            _add(gram, cross, inputs, torch.zeros_like(own), weight, basis)

    ridge = RIDGE * gram.diagonal().mean()
    change = torch.linalg.solve(
        gram + ridge * torch.eye(width_in, dtype=torch.float64), cross, left=False
    )
    left, size, right = torch.linalg.svd(change, full_matrices=False)
    root = size[: lora.rank].sqrt()
    lora.down(key).copy_((root[:, None] * right[: lora.rank]).float())
    lora.up(key).copy_((left[:, : lora.rank] * root).float())
    return True


def _look(
    encoder: TextEncoder, lora: EncoderLora, key: ModuleKey, states: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor]:
    """(input of the projection `key`, the state that leaves its layer), (n, 77, ...) each."""
    seen: list[Tensor] = []
    layer = encoder.layers[key.layer]
    hooks = [
        lora.frozen(key).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])),
        layer.register_forward_hook(
            lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
        ),
    ]
    try:
        encoder.tail(states, ids)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0], seen[1]


def _weights(roles: Tensor, scales: RoleScales) -> Tensor:
    """(n, 77): every role of a prompt weighs the same, in units of its variance."""
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
    gram += (weighted.T @ flat).double().cpu()
    cross += (wanted.flatten(0, 1).T @ weighted).double().cpu()
