"""What a host's UNet needs so that a gradient can pass: all of it can be taken back.

Blocks are found by the name of their class, which is the same in latent diffusion's code and in
what ComfyUI and Forge made of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_NORMS = ("norm1", "norm2", "norm3")


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
