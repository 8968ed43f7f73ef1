"""One text tower, private and differentiable, from lent weights: token ids -> states.

The tower is a transformers CLIPTextModel cut after the last layer that the UNet gets anything of.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WrongModel
from ..files.tensor_file import is_finite
from ..progress import RunMonitor, stop_if_asked
from .clip_model import TextTower, body_of, empty_model, layer_count, load_weights, sizes_of
from .frozen_layers import WordVectors, multiplying_in, ready_in
from .tokenizer import EOS, PAD

ROWS = 1024
"""Tokens that go through a layer at once."""
PROJECTION = "text_projection.weight"


class TowerEncoder:
    """Layers 0..last_layer of a CLIP text tower, frozen.

    What it makes of a prompt of T tokens is (T + extra, width) float32: the conditioning layer's
    state of each token and, where the tower has one, the pooled vector behind them. The pooled
    vector is the last layer's state at EOS under the final LayerNorm, times the text projection.

    The layers' projections are held in the dtype that they were lent in. `encode` computes in
    float32; `encode_trees` and `tail`, between which a LoRA is trained, multiply in `products`.

    `split_at` says where `tail` begins, so that the states before it can be computed once when only
    the tail is trained.
    """

    def __init__(
        self,
        tower: TextTower,
        weights: Mapping[str, Tensor],
        conditioning_layer: int,
        device: torch.device,
        products: torch.dtype = torch.float32,
    ) -> None:
        """Build from weights under CLIPTextModel names; raises WrongModel if they don't fit."""
        self.tower = tower
        self.conditioning_layer = conditioning_layer
        self.last_layer = last_layer_of(tower, weights, conditioning_layer)
        sizes = sizes_of(weights, self.last_layer)
        self.width = sizes["hidden_size"]
        self.device = device
        self.products = products
        self.model = empty_model(sizes, tower.activation)
        load_weights(self.model, weights, device)
        self._body = body_of(self.model)
        self.words = WordVectors(self._body.embeddings.token_embedding.weight.detach())
        self._body.embeddings.token_embedding = self.words
        self.projection = _projection(weights, self.width, device) if tower.pooled else None
        self.model.requires_grad_(False)
        self.model.train(False)
        self._two_masks = "causal_attention_mask" in inspect.signature(
            self.layers[0].forward
        ).parameters  # fmt: skip
        self.split_at(0)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, each a CLIPEncoderLayer."""
        layers: nn.ModuleList = self._body.encoder.layers
        return layers

    @property
    def extra(self) -> int:
        """How many rows stand behind those of the tokens: 1 for a pooled vector, else 0."""
        return int(self.tower.pooled)

    def split_at(self, layer: int) -> None:
        """Choose where `tail` begins, at the conditioning layer or before."""
        self._first_tail_layer = layer

    def padded(self, token_ids: Tensor) -> Tensor:
        """Token ids (..., T) with this tower's own padding behind the end of the prompt."""
        if self.tower.pad == PAD:
            return token_ids
        behind = (token_ids == EOS).cumsum(-1) > 0
        return token_ids.masked_fill(behind & (token_ids == PAD), self.tower.pad)

    def extended(self, rows: Tensor, value: int) -> Tensor:
        """(N, T) int64 about tokens -> (N, T + extra), `value` standing for the pooled vector."""
        return rows if not self.extra else nn.functional.pad(rows, (0, 1), value=value)

    def tail(self, states: Tensor, ends: Tensor | None = None) -> Tensor:
        """What comes of the states before the tail: (B, T, width) -> (B, T + extra, width).

        All float32; ends (B,) int64 are the positions of EOS, where a pooled vector is read.
        """
        layers = self.layers[self._first_tail_layer :]
        with multiplying_in(layers, self.products), self._attending():
            return self._to_the_end(self._first_tail_layer, states, ends, self.products)

    def encode(self, token_ids: Tensor, learned: Tensor | None = None) -> Tensor:
        """Each chunk's states: (B, T <= 77) int64 -> (B, T + extra, width) float32.

        `learned` (n, width) gives the vectors of ids from 49408 on.
        """
        positions = torch.arange(token_ids.shape[1]).expand_as(token_ids)
        states = self._embed(self.padded(token_ids), positions, learned)
        return self._to_the_end(0, states, end_positions(token_ids), torch.float32)

    @torch.no_grad()
    def encode_trees(
        self,
        token_ids: Tensor,
        positions: Tensor,
        sees: Tensor,
        learned: Tensor | None = None,
        monitor: RunMonitor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(before the tail, of the conditioning layer, of the last layer) of B token trees.

        Each (B, L, width) float32; the second is the conditioning, the third what `pool` reads.
        token_ids and positions (B, L) int64, sees (B, L, L) bool as in `TokenTrees`. Layer by
        layer, so that each weight is converted and read from memory once. Raises Cancelled between
        two layers if the user asked to stop.
        """
        rows = max(1, ROWS // token_ids.shape[1])
        states = list(self._embed(token_ids, positions, learned).split(rows))
        masks = self._mask(sees, self.products).split(rows)
        before = conditioning = states
        for number, layer in enumerate(self.layers):
            if monitor is not None:
                stop_if_asked(monitor)
            if number == self._first_tail_layer:
                before = states
            with multiplying_in(layer, self.products), ready_in(layer, self.products):
                states = [self._through(layer, *both) for both in zip(states, masks, strict=True)]
            if number == self.conditioning_layer:
                conditioning = states
        found = torch.cat([self.normed(part) for part in conditioning])
        return torch.cat(before), found, torch.cat(states) if self.extra else found

    def normed(self, states: Tensor) -> Tensor:
        """The conditioning that states (..., width) give if they leave the conditioning layer."""
        if not self.tower.normed:
            return states
        normed: Tensor = self._body.final_layer_norm(states)
        return normed

    def pool(self, states: Tensor) -> Tensor:
        """The pooled vectors (..., width) of the last layer's states at EOS, (..., width)."""
        assert self.projection is not None
        return nn.functional.linear(self._body.final_layer_norm(states), self.projection)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and weights of all that conditions the picture; no LoRA attached."""
        for name, value in sorted(self.model.state_dict().items()):
            if "position_ids" not in name:
                yield name, value
        if self.projection is not None:
            yield PROJECTION, self.projection

    def _embed(self, token_ids: Tensor, positions: Tensor, learned: Tensor | None) -> Tensor:
        with self._using(learned):
            words: Tensor = self.words(token_ids.to(self.device))
        places: Tensor = self._body.embeddings.position_embedding(positions.to(self.device))
        return words + places

    def _to_the_end(
        self, first: int, states: Tensor, ends: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        count, length = states.shape[:2]
        sees = torch.ones(1, length, length, dtype=torch.bool).tril()
        mask = self._mask(sees, dtype).expand(count, -1, -1, -1)
        between = self.conditioning_layer + 1
        for layer in self.layers[first:between]:
            states = self._through(layer, states, mask)
        conditioning = self.normed(states)
        if not self.extra:
            return conditioning
        assert ends is not None
        for layer in self.layers[between:]:
            states = self._through(layer, states, mask)
        at_end = states[torch.arange(count, device=self.device), ends.to(self.device)]
        return torch.cat([conditioning, self.pool(at_end)[:, None]], 1)

    def _mask(self, sees: Tensor, dtype: torch.dtype) -> Tensor:
        """What is added to the attention's scores, (B, 1, L, L), from (B, L, L) bool."""
        least = torch.finfo(dtype).min
        zeros = torch.zeros((), dtype=dtype, device=self.device)
        return zeros.masked_fill(~sees.to(self.device), least)[:, None]

    def _through(self, layer: nn.Module, states: Tensor, mask: Tensor) -> Tensor:
        """One layer, in transformers 4 and 5."""
        output = layer(states, None, mask) if self._two_masks else layer(states, mask)
        only: Tensor = output[0] if isinstance(output, tuple) else output
        return only

    @contextmanager
    def _attending(self) -> Iterator[None]:
        """Attention as plain products where torch's own kernel has a slow backward pass.

        On a CPU in bfloat16 that takes five times as long for prompts, whatever their length.
        """
        config: Any = self.model.config
        usual = getattr(config, "_attn_implementation", None)  # transformers before 4.36: plain
        plain = self.device.type == "cpu" and self.products == torch.bfloat16 and usual == "sdpa"
        if plain:
            config._attn_implementation = "eager"
        try:
            yield
        finally:
            if plain:
                config._attn_implementation = usual

    @contextmanager
    def _using(self, learned: Tensor | None) -> Iterator[None]:
        self.words.learned = learned
        try:
            yield
        finally:
            self.words.learned = None


def last_layer_of(tower: TextTower, weights: Mapping[str, Tensor], conditioning_layer: int) -> int:
    """The last layer that moves anything of what the UNet gets."""
    return max(conditioning_layer, layer_count(weights) - 1) if tower.pooled else conditioning_layer


def end_positions(token_ids: Tensor) -> Tensor:
    """Where EOS stands in each prompt: (B, T) int64 -> (B,) int64."""
    return (token_ids == EOS).int().argmax(-1)


def _projection(weights: Mapping[str, Tensor], width: int, device: torch.device) -> Tensor:
    given = weights.get(PROJECTION)
    if given is None or given.shape != (width, width):
        found = "missing" if given is None else f"of shape {tuple(given.shape)}"
        raise WrongModel(f"The text encoder's projection is {found}; expected {(width, width)}.")
    if not is_finite(given):
        raise WrongModel("The text encoder's projection holds numbers that are not finite.")
    return given.detach().to(device=device, dtype=torch.float32, copy=True)
