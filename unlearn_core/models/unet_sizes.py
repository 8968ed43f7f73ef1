"""How many numbers a UNet of Stable Diffusion's kind holds at once, counted from its widths.

Counted is what autograd keeps of a forward pass with frozen weights whose text wants a gradient,
with fused attention, so that no table of attention weights is kept: see the terms below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..text.tokenizer import CHUNK

RESIDUAL = 3
"""Kept of a residual block, for each channel in and each channel out: a norm's input, what SiLU
gets of it, and what the convolution gets of that."""
TRANSFORMER_BLOCK = 21
"""Kept of a block of a transformer, for each channel: the inputs of its three norms; q, k, v and
the result of self-attention; q and the result of cross-attention; 12 of the gated layer, which is
four times as wide: both halves, and the gate behind its GELU."""
TRANSFORMER = 1
"""Kept of a transformer beside its blocks: the input of its norm."""
FIRST_BLOCK = 14
"""Of the very first block: nothing before its cross-attention hangs on the text."""
WORKING = 18
"""Held for a moment inside a transformer's gated layer, for each channel."""
OUTPUT = 3
"""Kept behind the last block, for each channel: norm, SiLU and convolution."""


@dataclass(frozen=True)
class _Block:
    """A residual block or a transformer."""

    depth: int
    """Blocks of a transformer; 0 for a residual block."""
    channels_in: int
    channels: int
    level: int
    """Each level has a quarter of the pixels of the one before."""


@dataclass(frozen=True)
class UnetSizes:
    """The widths that say how much memory a UNet takes."""

    widths: tuple[int, ...]
    """Channels of each level, the finest first: 320, 640, 1280, 1280 on SD2."""
    depths: tuple[int, ...]
    """Of the transformers of each level, which look at the text: 1, 1, 1, 0 on SD2; 0, 2, 10 on
    SDXL, where 0 is none."""
    blocks: int
    """Residual blocks of a level on the way down; there is one more on the way up."""
    text_width: int
    converts: bool = False
    """Whether weights are made another dtype call by call, which a gradient then holds."""
    middle: int = 1
    """Depth of the transformer between the way down and the way up."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], converts: bool = False) -> UnetSizes:
        """From the config of diffusers' UNet2DConditionModel."""
        kinds, depth = config["down_block_types"], config.get("transformer_layers_per_block", 1)
        depths = [depth] * len(kinds) if isinstance(depth, int) else [int(one) for one in depth]
        return cls(
            tuple(config["block_out_channels"]),
            tuple(
                one if "CrossAttn" in kind else 0 for kind, one in zip(kinds, depths, strict=True)
            ),
            int(config["layers_per_block"]),
            int(config["cross_attention_dim"]),
            converts,
            depths[-1],
        )

    @classmethod
    def from_ldm(
        cls, shapes: Mapping[str, Sequence[int]], converts: bool = False
    ) -> UnetSizes | None:
        """From weights' shapes under latent diffusion's names; None if they are others."""
        found: dict[int, tuple[int, int]] = {}
        for name, shape in shapes.items():
            block = re.fullmatch(r"input_blocks\.(\d+)\.0\.in_layers\.2\.weight", name)
            if block:
                found[int(block[1])] = (int(shape[0]), _depth(shapes, f"input_blocks.{block[1]}.1"))
        texts = [shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")]
        if not found or not texts:
            return None
        levels: list[tuple[int, int]] = []
        for number in sorted(found):
            if number - 1 not in found:  # a downsampling, or the very first convolution
                levels.append(found[number])
        widths, depths = zip(*levels, strict=True)
        middle = _depth(shapes, "middle_block.1")
        return cls(widths, depths, len(found) // len(levels), int(texts[0]), converts, middle)

    def kept(self, height: int, width: int, checkpointing: bool) -> int:
        """Numbers kept for the way back for one picture of latents `height` x `width`.

        With `checkpointing` blocks keep their inputs only, and one of them at a time the rest.
        """
        pixels = height * width
        blocks = list(self._blocks())
        first = next(i for i, block in enumerate(blocks) if block.depth)
        inside = [
            self._kept_inside(block, pixels, first=i == first)
            for i, block in enumerate(blocks)
            if i >= first
        ]
        between = OUTPUT * self.widths[0] * pixels
        for level, channels in enumerate(self.widths[:-1]):
            # What is halved, and from below what was enlarged.
            between += (channels + self.widths[level + 1]) * (pixels >> 2 * level)
        if not checkpointing:
            return sum(inside) + between
        inputs = [block.channels_in * (pixels >> 2 * block.level) for block in blocks[first:]]
        return sum(inputs) + max(inside) + between

    def drawing(self, height: int, width: int) -> int:
        """Numbers held at most for one picture without gradient."""
        pixels = height * width
        skipped = [block for block in self._down() if not block.depth]
        skips = sum(block.channels * (pixels >> 2 * block.level) for block in skipped)
        return skips + 2 * self.widths[0] * pixels + self.working(height, width)

    def working(self, height: int, width: int) -> int:
        """Numbers that one block holds at most for one picture while it computes."""
        pixels = height * width
        transformers = [block for block in self._blocks() if block.depth]
        return max(WORKING * b.channels * (pixels >> 2 * b.level) for b in transformers)

    def converted(self, checkpointing: bool) -> int:
        """Weights of another dtype that a gradient holds."""
        if not self.converts:
            return 0
        weights = [self._weights(block) for block in self._blocks()]
        return max(weights) if checkpointing else sum(weights)

    def _kept_inside(self, block: _Block, pixels: int, first: bool) -> int:
        here = pixels >> 2 * block.level
        if not block.depth:
            return RESIDUAL * (block.channels_in + block.channels) * here
        of_text = 2 * block.channels * CHUNK * block.depth
        kept = TRANSFORMER + TRANSFORMER_BLOCK * block.depth
        kept -= TRANSFORMER_BLOCK - FIRST_BLOCK if first else 0
        return kept * block.channels * here + of_text

    def _weights(self, block: _Block) -> int:
        wide, before = block.channels, block.channels_in
        if block.depth:
            return (2 + 18 * block.depth) * wide**2 + 2 * block.depth * wide * self.text_width
        return 9 * (before + wide) * wide + (before * wide if before != wide else 0)

    def _down(self) -> Iterator[_Block]:
        before = self.widths[0]
        for level, channels in enumerate(self.widths):
            for _ in range(self.blocks):
                yield _Block(0, before, channels, level)
                if self.depths[level]:
                    yield _Block(self.depths[level], channels, channels, level)
                before = channels

    def _blocks(self) -> Iterator[_Block]:
        """In the order in which they compute."""
        yield from self._down()
        last = len(self.widths) - 1
        deepest = self.widths[last]
        yield _Block(0, deepest, deepest, last)
        yield _Block(self.middle, deepest, deepest, last)
        yield _Block(0, deepest, deepest, last)
        skips = [self.widths[0]]
        for level, channels in enumerate(self.widths):
            skips += [channels] * (self.blocks + (level < last))
        before = deepest
        for level in reversed(range(last + 1)):
            for _ in range(self.blocks + 1):
                channels = self.widths[level]
                yield _Block(0, before + skips.pop(), channels, level)
                if self.depths[level]:
                    yield _Block(self.depths[level], channels, channels, level)
                before = channels


def _depth(shapes: Mapping[str, Sequence[int]], place: str) -> int:
    """How many blocks the transformer there has; 0 where there is none."""
    ours = re.compile(rf"{re.escape(place)}\.transformer_blocks\.\d+\.attn2\.to_k\.weight")
    return sum(ours.fullmatch(name) is not None for name in shapes)
