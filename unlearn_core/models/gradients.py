"""Gradients through a lent UNet: checkpointing, loss scaling, and a check that they arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import TrainingFailed

STEP_SIZES = (1e-2, 1e-3)
"""Steps along the gradient, relative to the size of the text."""
BLOCKS = ("ResBlock", "SpatialTransformer", "ResnetBlock2D", "Transformer2DModel")
"""Names of the classes, in latent diffusion's code and what hosts made of it, and in diffusers'."""
_NORMS = ("norm1", "norm2", "norm3")
Computing = Callable[[], AbstractContextManager[Any]]
"""How a host computes: its autocast."""


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter wants a gradient inside; each flag is put back after.

    Kept by name, for `make_plain` puts other tensors in the place of parameters.
    """
    wanting = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    for name in wanting:
        module.get_parameter(name).requires_grad_(False)
    try:
        yield
    finally:
        for name in wanting:
            parameter = module.get_parameter(name)
            with torch.inference_mode(parameter.is_inference()):  # its flag is fixed outside
                parameter.requires_grad_(True)


@contextmanager
def residuals_kept(unet: nn.Module) -> Iterator[None]:
    """Let autograd through blocks that add to their input in place (`x += n`).

    A LayerNorm remembers its input for the way back, and the next line overwrites it: inside, each
    of them gets a copy.
    """
    hooks = [
        norm.register_forward_pre_hook(_copy_input)
        for part in unet.modules()
        if type(part).__name__ == "BasicTransformerBlock"
        for norm in (getattr(part, name, None) for name in _NORMS)
        if isinstance(norm, nn.Module)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def make_plain(module: nn.Module) -> None:
    """Put plain tensors of the same values in the place of inference tensors, one at a time.

    Autograd refuses to remember inference tensors, which is what a model loaded under
    `torch.inference_mode` is made of.
    """
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None and weight.is_inference():
                part._parameters[name] = nn.Parameter(weight.detach().clone(), requires_grad=False)
        for name, value in part._buffers.items():
            if value is not None and value.is_inference():
                part._buffers[name] = value.detach().clone()


def _copy_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    first, *rest = inputs
    return (first.clone() if torch.is_grad_enabled() else first, *rest)


@contextmanager
def checkpointed(unet: nn.Module, computing: Computing = nullcontext) -> Iterator[None]:
    """Gradient checkpointing: each block keeps its inputs only (Chen et al. 2016, 1604.06174).

    The second time blocks run outside of the host's call, so `computing` is entered for each.
    diffusers' own switch for this is not used: in older versions it needs the UNet in training
    mode, and the hosts' UNets have none.
    """
    blocks: list[Any] = [part for part in unet.modules() if type(part).__name__ in BLOCKS]
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = _checkpointed(block, block.forward, computing)
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            del block.forward
            if own is not None:
                block.forward = own


def _checkpointed(block: nn.Module, forward: Any, computing: Computing) -> Any:
    def computed(*args: Any, **kwargs: Any) -> Any:
        with computing(), frozen(block):
            return forward(*args, **kwargs)

    def again(*args: Any, **kwargs: Any) -> Any:
        # No block draws random numbers.
        return checkpoint(computed, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return again


class LossScaling:
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


def check_gradient(predict: Callable[[Tensor], Tensor], text: Tensor, tolerance: float) -> None:
    """Compare the gradient with differences of the prediction along it.

    A random linear reading of `predict(text)` rises along its own gradient g by |g| per unit of
    length; central differences at two step sizes must find that for one of them, to a relative
    `tolerance`. Raises TrainingFailed if they don't.
    """
    given = text.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        output = predict(given)
        generator = torch.Generator().manual_seed(0)
        reading = torch.randn(output.shape, generator=generator).to(output)
        (gradient,) = torch.autograd.grad((output * reading).sum(), given)
    length = float(gradient.norm())
    slopes = []
    if 0 < length < float("inf"):
        direction = gradient / length
        with torch.no_grad():
            for step in (share * float(text.norm()) for share in STEP_SIZES):
                ahead, behind = (predict(text + side * step * direction) for side in (1, -1))
                slopes.append(float(((ahead - behind) * reading).sum()) / (2 * step))
    if not any(abs(slope / length - 1) <= tolerance for slope in slopes):
        found = ", ".join(f"{slope:.4g}" for slope in slopes) or "nothing finite"
        raise TrainingFailed(
            f"This model's gradient is wrong here: it says {length:.4g}, differences say {found}. "
            "An attention kernel or a memory option of the host may be the cause: start it with "
            "PyTorch's attention and without such options."
        )
