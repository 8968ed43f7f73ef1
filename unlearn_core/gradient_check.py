"""Whether a host's UNet gives a right gradient: some kernels and memory tricks give wrong ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .errors import TrainingFailed

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
STEP_SIZES = (1e-2, 1e-3)
"""Steps along the gradient, relative to the size of the text."""


def check_gradient(
    predict: Predict, latents: Tensor, timesteps: Tensor, text: Tensor, tolerance: float
) -> None:
    """Compare the gradient with differences of the prediction along it.

    A random linear reading of `predict(latents, timesteps, text)` rises along its own gradient g by
    |g| per unit of length; central differences at two step sizes must find that for one of them, to
    a relative `tolerance`. Raises TrainingFailed if they don't.
    """
    given = text.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        output = predict(latents, timesteps, given)
        generator = torch.Generator().manual_seed(0)
        reading = torch.randn(output.shape, generator=generator).to(output)
        (gradient,) = torch.autograd.grad((output * reading).sum(), given)
    length = float(gradient.norm())
    slopes = []
    if 0 < length < float("inf"):
        direction = gradient / length
        with torch.no_grad():
            for step in (share * float(text.norm()) for share in STEP_SIZES):
                ahead, behind = (
                    predict(latents, timesteps, text + side * step * direction) for side in (1, -1)
                )
                slopes.append(float(((ahead - behind) * reading).sum()) / (2 * step))
    if not any(abs(slope / length - 1) <= tolerance for slope in slopes):
        found = ", ".join(f"{slope:.4g}" for slope in slopes) or "nothing finite"
        raise TrainingFailed(
            f"This model's gradient is wrong here: it says {length:.4g}, differences say {found}. "
            "An attention kernel or a memory option of the host may be the cause: start it with "
            "PyTorch's attention and without such options."
        )
