"""A private, differentiable text encoder from lent weights: token ids -> (B, 77, width).

The encoder is a transformers CLIPTextModel cut after the layer that conditions the picture, so its
`last_hidden_state` (that layer, then the final LayerNorm) is Stable Diffusion v2's conditioning.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import WrongModel
from .tokenizer import BOS, CHUNK, EOS, PAD, VOCABULARY, tokenize

if TYPE_CHECKING:
    from transformers import CLIPTextModel

HEAD_WIDTH = 64
"""Width of one attention head in every OpenCLIP text tower of this family."""


class WordVectors(nn.Module):
    """The token embedding table, and further rows for learned vectors.

    Ids from 49408 on read row `id - 49408` of `learned`, (n, width) float32.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.learned: Tensor | None = None

    def forward(self, token_ids: Tensor) -> Tensor:
        """(B, T) int64 -> (B, T, width)."""
        words = nn.functional.embedding(token_ids.clamp(max=VOCABULARY - 1), self.weight)
        if self.learned is None:
            return words
        is_learned = token_ids >= VOCABULARY
        rows = (token_ids - VOCABULARY).clamp(0, len(self.learned) - 1)
        # Not learned[rows]: the backward of an index adds in the order that threads arrive.
        learned = nn.functional.embedding(rows, self.learned)
        return torch.where(is_learned[..., None], learned, words)


class _GivenStates(nn.Module):
    """Stands where the embeddings were and hands out states computed before."""

    def __init__(self) -> None:
        super().__init__()
        self.states: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> Tensor:
        assert self.states is not None
        return self.states


class FrozenLinear(nn.Linear):
    """A projection that computes in its input's dtype, whatever its weight is held in.

    A half weight made float32 for the time of a call takes half the memory and gives the same
    values; for a thousand rows the conversion is a few per cent of the product.
    """

    def forward(self, states: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return nn.functional.linear(states, self.weight.to(states.dtype), self.bias)


class TextEncoder:
    """Layers 0..last_used_layer of a CLIP text tower, frozen, computing in float32.

    The layers' projections are held in the dtype that they were lent in.

    `split_at` divides it: `prefix` runs the layers below, `tail` the layers from there on, so
    that the states between can be computed once when only the tail is trained.
    """

    def __init__(
        self, weights: dict[str, Tensor], last_used_layer: int, device: torch.device
    ) -> None:
        """Build from weights under CLIPTextModel names; raises WrongModel if they don't fit."""
        sizes = _sizes(weights, last_used_layer)
        self.width = sizes["hidden_size"]
        self.last_used_layer = last_used_layer
        self.device = device
        self.model = _empty_model(sizes)
        _load(self.model, weights, device)
        body = _body(self.model)
        self.words = WordVectors(body.embeddings.token_embedding.weight.detach())
        body.embeddings.token_embedding = self.words
        self.model.requires_grad_(False)
        self.model.train(False)
        self._sizes = sizes
        self.split_at(0)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, each a CLIPEncoderLayer."""
        layers: nn.ModuleList = _body(self.model).encoder.layers
        return layers

    def split_at(self, layer: int) -> None:
        """Choose where `prefix` ends and `tail` begins."""
        self._first_tail_layer = layer
        self._given = _GivenStates()
        self._tail = self._part(
            self.layers[layer:], self._given, _body(self.model).final_layer_norm
        )
        self._prefix = self._part(self.layers[:layer], _body(self.model).embeddings, nn.Identity())

    def _part(self, layers: nn.ModuleList, embeddings: nn.Module, norm: nn.Module) -> CLIPTextModel:
        part = _empty_model({**self._sizes, "num_hidden_layers": len(layers)})
        body = _body(part)
        body.embeddings, body.encoder.layers, body.final_layer_norm = embeddings, layers, norm
        part.train(False)
        return part

    def prefix(self, token_ids: Tensor, learned: Tensor | None = None) -> Tensor:
        """States before the first layer of the tail: (B, T) int64 -> (B, T, width) float32."""
        with self._using(learned):
            return self._run(self._prefix, token_ids)

    def tail(self, states: Tensor, token_ids: Tensor) -> Tensor:
        """The conditioning (B, T, width) from the states that `prefix` gave."""
        self._given.states = states
        try:
            return self._run(self._tail, token_ids)
        finally:
            self._given.states = None

    def encode(self, token_ids: Tensor, learned: Tensor | None = None) -> Tensor:
        """The conditioning of each chunk: (B, T <= 77) int64 -> (B, T, width) float32.

        `learned` (n, width) gives the vectors of ids from 49408 on.
        """
        with self._using(learned):
            return self._run(self.model, token_ids)

    def encode_tree(
        self, token_ids: Tensor, positions: Tensor, sees: Tensor, learned: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(states before the tail, conditioning) of a `TokenTree`, each (L, width) float32."""
        body = _body(self.model)
        sees = sees.to(self.device)
        mask = torch.zeros(sees.shape, device=self.device)
        mask = mask.masked_fill(~sees, torch.finfo(mask.dtype).min)[None, None]
        with self._using(learned):
            words = self.words(token_ids.to(self.device))
        states = before = (words + body.embeddings.position_embedding(positions.to(self.device)))[
            None
        ]
        for number, layer in enumerate(self.layers):
            if number == self._first_tail_layer:
                before = states
            states = _through(layer, states, mask)
        return before[0], body.final_layer_norm(states)[0]

    def fingerprint(self) -> str:
        """SHA-256 of the weights in float32, in the order of their names; no LoRA attached."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            if "position_ids" not in name:
                flat = value.detach().float().cpu().contiguous().view(torch.uint8)
                digest.update(flat.numpy().tobytes())
        return digest.hexdigest()

    def _run(self, model: CLIPTextModel, token_ids: Tensor) -> Tensor:
        states: Tensor = model(input_ids=token_ids.to(self.device)).last_hidden_state
        return states

    @contextmanager
    def _using(self, learned: Tensor | None) -> Iterator[None]:
        self.words.learned = learned
        try:
            yield
        finally:
            self.words.learned = None

    def knows(self, word: str) -> bool:
        """Whether every token of the word has a vector; small models know few words."""
        rows = self.words.weight[tokenize(word)]
        return len(rows) > 0 and bool((rows.abs().amax(dim=1) > 0).all())


def _sizes(weights: dict[str, Tensor], last_used_layer: int) -> dict[str, int]:
    table = weights.get("text_model.embeddings.token_embedding.weight")
    positions = weights.get("text_model.embeddings.position_embedding.weight")
    expand = weights.get("text_model.encoder.layers.0.mlp.fc1.weight")
    if table is None or positions is None or expand is None:
        raise WrongModel("The text encoder is not a CLIP text model: its weights are missing.")
    vocabulary, width = table.shape
    count = len({key.split(".")[3] for key in weights if key.startswith("text_model.encoder.")})
    if (width, count) == (768, 12):
        raise WrongModel(
            "This is Stable Diffusion 1.x: its text width is 768 with 12 layers; this engine "
            "needs Stable Diffusion 2.x (1024 with 23 or 24)."
        )
    if vocabulary != VOCABULARY or positions.shape[0] != CHUNK or width % HEAD_WIDTH:
        raise WrongModel(
            f"The text encoder has {vocabulary} tokens, {positions.shape[0]} positions and width "
            f"{width}; Stable Diffusion 2.x has {VOCABULARY}, {CHUNK} and 1024."
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
            for path, module in list(layer.named_modules()):
                if isinstance(module, nn.Linear):
                    owner, _, name = path.rpartition(".")
                    same = FrozenLinear(module.in_features, module.out_features)
                    setattr(layer.get_submodule(owner), name, same)
    return model


def _through(layer: nn.Module, states: Tensor, mask: Tensor) -> Tensor:
    """One layer, in transformers 4 and 5."""
    two_masks = "causal_attention_mask" in inspect.signature(layer.forward).parameters
    output = layer(states, None, mask) if two_masks else layer(states, mask)
    only: Tensor = output[0] if isinstance(output, tuple) else output
    return only


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
        is_half = given.dtype in (torch.float16, torch.bfloat16)
        keeps = is_half and given.dim() == 2 and ".layers." in name
        dtype = given.dtype if keeps else torch.float32
        state[name] = given.detach().to(device=device, dtype=dtype, copy=True)
    positions = torch.arange(CHUNK, device=device)[None]
    state |= {name: positions for name, _ in body.named_buffers() if name.endswith("position_ids")}
    persistent = set(body.state_dict())
    body.load_state_dict({k: v for k, v in state.items() if k in persistent}, assign=True)
    body.embeddings.position_ids = positions
