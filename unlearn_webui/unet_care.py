"""What a host's UNet needs so that a gradient can pass: all of it can be taken back.

Blocks are found by the name of their class, which is the same in latent diffusion's code and in
what ComfyUI and Forge made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_RECOMPUTED = ("ResBlock", "SpatialTransformer")
_RECOMPUTE_FROM = 64
"""Latent edge from which activations are computed again instead of kept for the gradient."""
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
def recomputed(unet: nn.Module, edge: int, computing: Computing) -> Iterator[None]:
    """For latents of a large edge blocks keep their inputs only and run again on the way back.

    The second time they run outside of the host's call, so `computing` is entered for each.
    """
    blocks: list[Any] = []
    if edge >= _RECOMPUTE_FROM:
        blocks = [part for part in unet.modules() if type(part).__name__ in _RECOMPUTED]
    for block in blocks:
        block.forward = _checkpointed(block.forward, computing)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


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


def _checkpointed(forward: Any, computing: Computing) -> Any:
    def computed(*args: Any, **kwargs: Any) -> Any:
        with computing():
            return forward(*args, **kwargs)

    def again(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(computed, *args, use_reentrant=False, **kwargs)

    return again
