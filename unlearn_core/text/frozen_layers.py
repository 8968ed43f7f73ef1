"""The frozen parts of the text encoder: what they are held in, and what they compute in.

Projections compute in their input's dtype, whatever their weights are held in, and layer norms say
which dtype that is: float32, or bfloat16 where the machine multiplies it faster. The residual
stream, the layer norms' own sums and the weights of a LoRA are float32 in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from .tokenizer import VOCABULARY


class WordVectors(nn.Module):
    """The token embedding table as it was lent, and further rows for learned vectors.

    Ids from 49408 on read row `id - 49408` of `learned`, (n, width) float32.
    """

    def __init__(self, held: Tensor) -> None:
        super().__init__()
        self.held = nn.Parameter(held, requires_grad=False)
        self.learned: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """(49408, width) float32: all rows; `vectors` gives some without the rest."""
        return self.held.float()

    @cached_property
    def is_known(self) -> list[bool]:
        """(49408): whether a token has a vector that is not zero."""
        known: list[bool] = self.held.any(dim=1).tolist()
        return known

    @cached_property
    def mean(self) -> Tensor:
        """(width,) float32: of all rows."""
        return self.weight.mean(0)

    def vectors(self, token_ids: Sequence[int]) -> Tensor:
        """(n, width) float32: the rows of n tokens."""
        return self.held[list(token_ids)].float()

    def forward(self, token_ids: Tensor) -> Tensor:
        """(B, T) int64 -> (B, T, width) float32."""
        words = nn.functional.embedding(token_ids.clamp(max=VOCABULARY - 1), self.held).float()
        if self.learned is None:
            return words
        is_learned = token_ids >= VOCABULARY
        rows = (token_ids - VOCABULARY).clamp(0, len(self.learned) - 1)
        # Not learned[rows]: the backward of an index adds in the order that threads arrive.
        learned = nn.functional.embedding(rows, self.learned)
        return torch.where(is_learned[..., None], learned, words)


class FactorLinear(nn.Linear):
    """A factor of a LoRA, held in float32; it multiplies in its input's dtype. No bias."""

    def forward(self, states: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return nn.functional.linear(states, self.weight.to(states.dtype))


class FrozenLinear(nn.Linear):
    """A projection that computes in its input's dtype, whatever its weight is held in.

    A half weight converted for the time of a call takes half the memory of a float32 one and gives
    the same values; `ready_in` converts once for many calls.
    """

    _ready: tuple[Tensor, Tensor] | None = None

    def forward(self, states: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        weight, bias = self._ready or (self.weight, self.bias)
        if weight.dtype != states.dtype:
            weight, bias = self.weight.to(states.dtype), self.bias.to(states.dtype)
        return nn.functional.linear(states, weight, bias)

    @property
    def holds_twice(self) -> bool:
        """Whether a converted weight is kept beside the one that was given."""
        return self._ready is not None

    def convert(self, dtype: torch.dtype) -> bool:
        """Keep the weight in `dtype` as well; False if it is there already."""
        if self._ready is not None and self._ready[0].dtype == dtype:
            return False
        self._ready = self.weight.to(dtype), self.bias.to(dtype)
        return True

    def release(self) -> None:
        """Keep only what was given."""
        self._ready = None


class FrozenNorm(nn.LayerNorm):
    """A layer norm over float32 whose output has the dtype that the projections compute in."""

    products: torch.dtype = torch.float32

    def forward(self, states: Tensor) -> Tensor:
        """(..., width) float32 -> (..., width)."""
        normed: Tensor = super().forward(states)
        return normed.to(self.products)


def freeze_parts(layer: nn.Module) -> None:
    """Put these classes in the place of a layer's own, without weights."""
    for path, module in list(layer.named_modules()):
        owner, _, name = path.rpartition(".")
        same: nn.Module
        if isinstance(module, nn.Linear):
            same = FrozenLinear(module.in_features, module.out_features)
        elif isinstance(module, nn.LayerNorm):
            same = FrozenNorm(module.normalized_shape, eps=module.eps)
        else:
            continue
        setattr(layer.get_submodule(owner), name, same)


def projections(layers: nn.Module) -> list[FrozenLinear]:
    """All frozen projections inside, also those below a LoRA."""
    return [module for module in layers.modules() if isinstance(module, FrozenLinear)]


@contextmanager
def ready_in(layer: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """A layer's weights are converted to `dtype` once, for the time of a `with` block."""
    converted = [module for module in projections(layer) if module.convert(dtype)]
    try:
        yield
    finally:
        for module in converted:
            module.release()


@contextmanager
def multiplying_in(layers: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """The projections of these layers compute in `dtype`, for the time of a `with` block."""
    norms = [module for module in layers.modules() if isinstance(module, FrozenNorm)]
    for norm in norms:
        norm.products = dtype
    try:
        yield
    finally:
        for norm in norms:
            norm.products = torch.float32
