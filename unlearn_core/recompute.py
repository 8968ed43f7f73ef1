"""Blocks of a UNet that run again on the way back, so that their activations need not be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

BLOCKS = ("ResBlock", "SpatialTransformer", "ResnetBlock2D", "Transformer2DModel")
"""Names of the classes, in latent diffusion's code and what hosts made of it, and in diffusers'."""

Computing = Callable[[], AbstractContextManager[Any]]
"""How a host computes: its autocast."""


@contextmanager
def recomputed(unet: nn.Module, computing: Computing = nullcontext) -> Iterator[None]:
    """Inside, each block keeps its inputs only.

    The second time blocks run outside of the host's call, so `computing` is entered for each.
    diffusers' own switch for this is not used: in older versions it needs the UNet in training
    mode, and the hosts' UNets have none.
    """
    blocks: list[Any] = [part for part in unet.modules() if type(part).__name__ in BLOCKS]
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = _checkpointed(block.forward, computing)
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            del block.forward
            if own is not None:
                block.forward = own


def _checkpointed(forward: Any, computing: Computing) -> Any:
    def computed(*args: Any, **kwargs: Any) -> Any:
        with computing():
            return forward(*args, **kwargs)

    def again(*args: Any, **kwargs: Any) -> Any:
        # No block draws random numbers.
        return checkpoint(computed, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return again
