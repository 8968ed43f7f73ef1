"""A private, differentiable text encoder from lent weights: token ids -> (B, 77, width).

The encoder is a transformers CLIPTextModel cut after the layer that conditions the picture, so that
layer's state under the final LayerNorm is Stable Diffusion v2's conditioning.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..progress import RunMonitor, stop_if_asked
from .clip_model import body_of, empty_model, load_weights, sizes_of
from .conditioning import Conditioning
from .frozen_layers import WordVectors, multiplying_in, ready_in
from .tokenizer import tokenize

if TYPE_CHECKING:
    pass

ROWS = 1024
"""Tokens that go through a layer at once."""


class TextEncoder:
    """Layers 0..last_used_layer of a CLIP text tower, frozen.

    The layers' projections are held in the dtype that they were lent in. `encode` computes in
    float32; `encode_trees` and `tail`, between which a LoRA is trained, multiply in `products`.

    `split_at` says where `tail` begins, so that the states before it can be computed once when only
    the tail is trained.
    """

    def __init__(
        self,
        weights: dict[str, Tensor],
        last_used_layer: int,
        device: torch.device,
        products: torch.dtype = torch.float32,
    ) -> None:
        """Build from weights under CLIPTextModel names; raises WrongModel if they don't fit."""
        sizes = sizes_of(weights, last_used_layer)
        self.width = sizes["hidden_size"]
        self.last_used_layer = last_used_layer
        self.device = device
        self.products = products
        self.model = empty_model(sizes)
        load_weights(self.model, weights, device)
        self._body = body_of(self.model)
        self.words = WordVectors(self._body.embeddings.token_embedding.weight.detach())
        self._body.embeddings.token_embedding = self.words
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

    def split_at(self, layer: int) -> None:
        """Choose where `tail` begins."""
        self._first_tail_layer = layer

    def tail(self, states: Tensor) -> Tensor:
        """The conditioning from the states before the tail: (B, T, width) float32, both."""
        layers = self.layers[self._first_tail_layer :]
        with multiplying_in(layers, self.products), self._attending():
            return self._to_the_end(layers, states, self.products)

    def encode(self, token_ids: Tensor, learned: Tensor | None = None) -> Tensor:
        """The conditioning of each chunk: (B, T <= 77) int64 -> (B, T, width) float32.

        `learned` (n, width) gives the vectors of ids from 49408 on.
        """
        positions = torch.arange(token_ids.shape[1]).expand_as(token_ids)
        states = self._embed(token_ids, positions, learned)
        return self._to_the_end(self.layers, states, torch.float32)

    def condition(self, token_ids: Tensor, learned: Tensor | None = None) -> Conditioning:
        """What the UNet gets of each prompt, from ids as `encode` takes them."""
        return Conditioning(self.encode(token_ids, learned))

    @torch.no_grad()
    def encode_trees(
        self,
        token_ids: Tensor,
        positions: Tensor,
        sees: Tensor,
        learned: Tensor | None = None,
        monitor: RunMonitor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(states before the tail, conditioning) of B token trees, each (B, L, width) float32.

        token_ids and positions (B, L) int64, sees (B, L, L) bool as in `TokenTrees`. Layer by
        layer, so that each weight is converted and read from memory once. Raises Cancelled between
        two layers if the user asked to stop.
        """
        rows = max(1, ROWS // token_ids.shape[1])
        states = list(self._embed(token_ids, positions, learned).split(rows))
        masks = self._mask(sees, self.products).split(rows)
        before = states
        for number, layer in enumerate(self.layers):
            if monitor is not None:
                stop_if_asked(monitor)
            if number == self._first_tail_layer:
                before = states
            with multiplying_in(layer, self.products), ready_in(layer, self.products):
                states = [self._through(layer, *both) for both in zip(states, masks, strict=True)]
        return torch.cat(before), torch.cat([self.normed(part) for part in states])

    def normed(self, states: Tensor) -> Tensor:
        """The conditioning that states (..., width) give if they leave the last used layer."""
        normed: Tensor = self._body.final_layer_norm(states)
        return normed

    def fingerprint(self) -> str:
        """SHA-256 of the weights in float32, in the order of their names; no LoRA attached."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            if "position_ids" not in name:
                flat = value.detach().float().cpu().contiguous().view(torch.uint8)
                digest.update(flat.numpy().tobytes())
        return digest.hexdigest()

    def _embed(self, token_ids: Tensor, positions: Tensor, learned: Tensor | None) -> Tensor:
        with self._using(learned):
            words: Tensor = self.words(token_ids.to(self.device))
        places: Tensor = self._body.embeddings.position_embedding(positions.to(self.device))
        return words + places

    def _to_the_end(self, layers: nn.ModuleList, states: Tensor, dtype: torch.dtype) -> Tensor:
        count, length = states.shape[:2]
        sees = torch.ones(1, length, length, dtype=torch.bool).tril()
        mask = self._mask(sees, dtype).expand(count, -1, -1, -1)
        for layer in layers:
            states = self._through(layer, states, mask)
        return self.normed(states)

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

    def knows(self, word: str) -> bool:
        """Whether every token of the word has a vector; small models know few words."""
        ids = tokenize(word)
        return len(ids) > 0 and all(self.words.is_known[token] for token in ids)
