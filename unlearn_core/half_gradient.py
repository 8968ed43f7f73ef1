"""Loss scaling for a UNet that computes in float16, whose gradients would underflow to zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .errors import TrainingFailed


class HalfGradient:
    """Carries one gradient from a prediction back to the text inside float16's range.

    At the output it is multiplied with the power of two that makes its greatest element about 1,
    at the text divided by it again (loss scaling, Micikevicius et al. 2018, arXiv 1710.03740,
    section 3.2, with a scale of its own for each prediction). In other dtypes nothing is done.
    """

    def __init__(self, compute_dtype: torch.dtype) -> None:
        self._needed = compute_dtype == torch.float16
        self._scale: Tensor | None = None

    def at_text(self, text: Tensor) -> Tensor:
        """What goes into the UNet, float32; the way back raises TrainingFailed on an overflow."""
        if not self._needed or not torch.is_grad_enabled():
            return text
        given: Tensor = _OnTheWayBack.apply(text, self._unscale)  # type: ignore[no-untyped-call]
        return given

    def at_output(self, output: Tensor) -> Tensor:
        """What comes out of it, before it becomes float32 or after."""
        if not self._needed or not torch.is_grad_enabled():
            return output
        scaled: Tensor = _OnTheWayBack.apply(output, self._rescale)  # type: ignore[no-untyped-call]
        return scaled

    def _rescale(self, gradient: Tensor) -> Tensor:
        most = gradient.abs().amax().float()
        power = torch.exp2(-most.log2().floor())
        self._scale = torch.where((most > 0) & most.isfinite(), power, 1.0)
        return gradient * self._scale

    def _unscale(self, gradient: Tensor) -> Tensor:
        if self._scale is None:
            return gradient
        if not bool(gradient.isfinite().all()):
            raise TrainingFailed(
                "A gradient left the range of float16. Load the model in bfloat16 or float32."
            )
        return gradient / self._scale


class _OnTheWayBack(torch.autograd.Function):
    """The same tensor; a function is applied to its gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, change: Any) -> Tensor:
        ctx.change = change
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradients[0]), None
