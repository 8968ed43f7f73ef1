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

from ..errors import WrongModel
from ..files.tensor_file import is_finite
from ..progress import RunMonitor, stop_if_asked
from .conditioning import Conditioning
from .frozen_layers import WordVectors, freeze_parts, multiplying_in, ready_in
from .tokenizer import ADDED_TOKENS, BOS, CHUNK, EOS, PAD, VOCABULARY, tokenize

if TYPE_CHECKING:
    from transformers import CLIPTextModel

HEAD_WIDTH = 64
"""Width of one attention head in every OpenCLIP text tower of this family."""
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
        sizes = _sizes(weights, last_used_layer)
        self.width = sizes["hidden_size"]
        self.last_used_layer = last_used_layer
        self.device = device
        self.products = products
        self.model = _empty_model(sizes)
        _load(self.model, weights, device)
        self._body = _body(self.model)
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


def _sizes(weights: dict[str, Tensor], last_used_layer: int) -> dict[str, int]:
    table = weights.get("text_model.embeddings.token_embedding.weight")
    positions = weights.get("text_model.embeddings.position_embedding.weight")
    expand = weights.get("text_model.encoder.layers.0.mlp.fc1.weight")
    if table is None or positions is None or expand is None:
        raise WrongModel("The text encoder is not a CLIP text model: its weights are missing.")
    vocabulary, width = table.shape
    count = len({key.split(".")[3] for key in weights if key.startswith("text_model.encoder.")})
    if vocabulary != VOCABULARY or positions.shape[0] != CHUNK or width % HEAD_WIDTH:
        raise WrongModel(
            f"The text encoder has {vocabulary} tokens, {positions.shape[0]} positions and width "
            f"{width}; one that can be used has {VOCABULARY}, {CHUNK} and a multiple of "
            f"{HEAD_WIDTH}." + (f" {ADDED_TOKENS}." if vocabulary > VOCABULARY else "")
        )
    if not 0 <= last_used_layer < count:
        raise WrongModel(
            f"Layer {last_used_layer} should condition the picture, but there are {count} layers."
        )
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": expand.shape[0],
        "num_hidden_layers": last_used_layer + 1,
        "num_attention_heads": width // HEAD_WIDTH,
    }


def _empty_model(sizes: dict[str, int]) -> CLIPTextModel:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        **sizes,
        projection_dim=sizes["hidden_size"],
        hidden_act="gelu",
        max_position_embeddings=CHUNK,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    with torch.device("meta"):
        model = CLIPTextModel(config)
        for layer in _body(model).encoder.layers:
            freeze_parts(layer)
    return model


def _body(model: CLIPTextModel) -> Any:
    """The module that holds embeddings, encoder and final_layer_norm in transformers 4 and 5."""
    return getattr(model, "text_model", model)


def _load(model: CLIPTextModel, weights: dict[str, Tensor], device: torch.device) -> None:
    body = _body(model)
    prefix = "text_model."
    state = {}
    for name, parameter in body.named_parameters():
        given = weights.get(prefix + name)
        if given is None or given.shape != parameter.shape:
            found = "missing" if given is None else f"of shape {tuple(given.shape)}"
            raise WrongModel(
                f"The text encoder's {name} is {found}; expected {tuple(parameter.shape)}."
            )
        if not is_finite(given):
            raise WrongModel(
                f"The text encoder's {name} holds numbers that are not finite: the model's file is "
                "broken, or a LoRA is on it at too great a strength. Load the model again."
            )
        is_half = given.dtype in (torch.float16, torch.bfloat16)
        keeps = is_half and given.dim() == 2 and "position" not in name
        dtype = given.dtype if keeps else torch.float32
        state[name] = given.detach().to(device=device, dtype=dtype, copy=True)
    positions = torch.arange(CHUNK, device=device)[None]
    state |= {name: positions for name, _ in body.named_buffers() if name.endswith("position_ids")}
    persistent = set(body.state_dict())
    body.load_state_dict({k: v for k, v in state.items() if k in persistent}, assign=True)
    body.embeddings.position_ids = positions
