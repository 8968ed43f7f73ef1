"""What the guard prompts make the trained layers see, and keeping a LoRA out of it."""

from __future__ import annotations

import torch
from torch import Tensor

from .encoder_lora import EncoderLora, captured
from .keys import ModuleKey

LEAST_FELT = 1e-6
"""Share of the strongest direction's energy below which a direction is not felt."""
GUARDED = 0.5
"""Share of a projection's input directions that the guard may take at most."""


@torch.no_grad()
def felt_directions(lora: EncoderLora, token_ids: Tensor) -> dict[ModuleKey, Tensor]:
    """What each trained projection sees of prompts (n, T <= 77): an orthonormal basis (in, m).

    A LoRA whose `down` is orthogonal to it changes nothing for these prompts (null-space
    constraint, as in AlphaEdit, arXiv 2410.02355), see `strongest_directions`.
    """
    projections = {key: lora.frozen(key) for key in lora.modules}
    with lora.disabled(), captured(projections, {}) as (seen, _):
        lora.tower.encode(token_ids)  # float32: rounding would look like directions
    return {key: strongest_directions(inputs.flatten(0, -2)) for key, inputs in seen.items()}


def strongest_directions(inputs: Tensor) -> Tensor:
    """An orthonormal basis (in, m), float32, of the rows (n, in), strongest directions first.

    At most GUARDED of the dimensions are taken, and none below LEAST_FELT.
    """
    _, size, right = torch.linalg.svd(inputs.cpu().double(), full_matrices=False)
    most = max(1, int(GUARDED * inputs.shape[1]))
    felt = int((size > size[0] * LEAST_FELT**0.5).sum())
    basis: Tensor = right[: min(felt, most)].T.float().contiguous()
    return basis.to(inputs.device)


@torch.no_grad()
def project_away(lora: EncoderLora, bases: dict[ModuleKey, Tensor]) -> None:
    """Make every `down` orthogonal to its basis."""
    for key, basis in bases.items():
        down = lora.down(key)
        down.sub_((down @ basis) @ basis.T)
