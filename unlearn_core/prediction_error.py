"""The mean squared error of the UNet's prediction, in as many parts as memory needs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .lent_model import LentModel


def prediction_error(
    model: LentModel, noisy: Tensor, timesteps: Tensor, text: Tensor, target: Tensor, rows: int
) -> Tensor:
    """A scalar that is differentiable in `text`; `rows` pictures go through the UNet together.

    noisy and target (B, 4, h, w), timesteps (B,), text (B, 77, width). With fewer rows than B each
    part's gradient at the text is taken at once, so that nothing but one part is held; value and
    gradient are those of the whole up to rounding.
    """
    if rows >= len(noisy) or not (torch.is_grad_enabled() and text.requires_grad):
        return functional.mse_loss(model.predict(noisy, timesteps, text), target)
    error = target.new_zeros(())
    gradients: list[Tensor] = []
    for start in range(0, len(noisy), rows):
        part = slice(start, start + rows)
        given = text[part].detach().requires_grad_(True)
        predicted = model.predict(noisy[part], timesteps[part], given)
        share = (predicted - target[part]).pow(2).sum() / target.numel()
        gradients += torch.autograd.grad(share, given)
        error += share.detach()
    # Adds nothing to the value, and on the way back hands on the gradients taken above.
    return error + ((text - text.detach()) * torch.cat(gradients)).sum()
