"""What the UNet gets of a prompt: one value that travels from the text encoder to the UNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """What the UNet gets of B prompts."""

    tokens: Tensor
    """(B, 77 n, width) float32: a state for each token; n chunks side by side."""
    pooled: Tensor | None = None
    """(B, width) float32: a vector for each prompt, of its first chunk; None where the family's
    UNet takes none."""

    @classmethod
    def cat(cls, parts: Sequence[Conditioning]) -> Conditioning:
        """The prompts of all parts, one after the other.

        Raises ValueError if some have a pooled vector and others have none.
        """
        pooled = [part.pooled for part in parts if part.pooled is not None]
        if pooled and len(pooled) < len(parts):
            raise ValueError("these conditionings are of different families")
        tokens = torch.cat([part.tokens for part in parts])
        return cls(tokens, torch.cat(pooled) if pooled else None)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Tensor | list[int]) -> Conditioning:
        """Some of the prompts."""
        return self.map(lambda tensor: tensor[rows])

    def expand(self, count: int) -> Conditioning:
        """One prompt as `count` of the same, without copies; `count` prompts as they are."""
        return self.map(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def side_by_side(self, chunks: int) -> Conditioning:
        """Each `chunks` prompts as the chunks of one."""
        tokens = self.tokens.unflatten(0, (-1, chunks)).flatten(1, 2)
        return Conditioning(tokens, None if self.pooled is None else self.pooled[::chunks])

    def map(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        """The same with each tensor changed."""
        return Conditioning(
            change(self.tokens), None if self.pooled is None else change(self.pooled)
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of it."""
        return (self.tokens,) if self.pooled is None else (self.tokens, self.pooled)

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient is wanted of any of it."""
        return any(tensor.requires_grad for tensor in self.tensors)
