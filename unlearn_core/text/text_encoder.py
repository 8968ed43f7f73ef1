"""All text towers of a model as one encoder: token ids -> what the UNet gets of the prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from threading import Event

import torch
from torch import Tensor

from ..progress import RunMonitor
from .clip_model import TextTower
from .conditioning import Conditioning
from .token_trees import encode_all
from .tokenizer import tokenize
from .tower_encoder import TowerEncoder

AT_ONCE = 1 << 22
"""Numbers that are converted to float32 at once."""


class TextEncoder:
    """A model's text encoder: one tower, or the two of SDXL side by side."""

    def __init__(self, towers: Sequence[TowerEncoder]) -> None:
        """The towers in the order of their states in the UNet's context."""
        self.towers = tuple(towers)

    @classmethod
    def of(
        cls,
        towers: Sequence[TextTower],
        weights: Mapping[str, Tensor],
        conditioning_layers: Sequence[int],
        device: torch.device,
        products: torch.dtype = torch.float32,
    ) -> TextEncoder:
        """From lent weights, see `TextTower.prefix`; raises WrongModel if they don't fit."""
        return cls(
            [
                TowerEncoder(tower, weights_of(tower, weights), layer, device, products)
                for tower, layer in zip(towers, conditioning_layers, strict=True)
            ]
        )

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.towers[0].device

    @property
    def widths(self) -> tuple[int, ...]:
        """Of each tower's part of a word vector."""
        return tuple(tower.width for tower in self.towers)

    @property
    def width(self) -> int:
        """Of a word vector: those of all towers side by side."""
        return sum(self.widths)

    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """Each tower's part of word vectors (n, width)."""
        return tuple(torch.split(vectors, list(self.widths), dim=-1))

    def condition(self, token_ids: Tensor, learned: Tensor | None = None) -> Conditioning:
        """What the UNet gets of each chunk: (B, T <= 77) int64.

        `learned` (n, width) gives the vectors of ids from 49408 on.
        """
        return self.joined(self.states(token_ids, learned))

    def states(self, token_ids: Tensor, learned: Tensor | None = None) -> tuple[Tensor, ...]:
        """What each tower makes of them, see TowerEncoder."""
        parts: Sequence[Tensor | None] = [None] * len(self.towers)
        if learned is not None:
            parts = self.split(learned)
        return tuple(
            tower.encode(token_ids, part) for tower, part in zip(self.towers, parts, strict=True)
        )

    def condition_all(self, token_ids: Tensor, monitor: RunMonitor | None = None) -> Conditioning:
        """As `condition` without a gradient, of many prompts that begin alike.

        Raises Cancelled if the user asked to stop.
        """
        found = [encode_all(tower, token_ids, monitor=monitor)[1] for tower in self.towers]
        return self.joined(found)

    def tail(self, states: Sequence[Tensor], ends: Tensor) -> Conditioning:
        """As `TowerEncoder.tail`, from what stands before each tower's tail."""
        pairs = zip(self.towers, states, strict=True)
        return self.joined([tower.tail(part, ends) for tower, part in pairs])

    def joined(self, states: Sequence[Tensor]) -> Conditioning:
        """What the UNet gets of the towers' states."""
        tokens, pooled = [], None
        for tower, part in zip(self.towers, states, strict=True):
            if tower.extra:
                part, pooled = part[:, :-1], part[:, -1]
            tokens.append(part)
        return Conditioning(tokens[0] if len(tokens) == 1 else torch.cat(tokens, -1), pooled)

    def word_vectors(self, token_ids: Sequence[int]) -> Tensor:
        """(n, width) float32: the vectors of n tokens."""
        return torch.cat([tower.words.vectors(token_ids) for tower in self.towers], -1)

    @property
    def word_table(self) -> Tensor:
        """(49408, width) float32: the vectors of all tokens."""
        return torch.cat([tower.words.weight for tower in self.towers], -1)

    @cached_property
    def mean_word_vector(self) -> Tensor:
        """(width,) float32: over all tokens."""
        return torch.cat([tower.words.mean for tower in self.towers])

    def knows(self, word: str) -> bool:
        """Whether every token of the word has a vector; small models know few words."""
        ids = tokenize(word)
        known = [tower.words.is_known for tower in self.towers]
        return len(ids) > 0 and all(of_tower[token] for of_tower in known for token in ids)

    def weights(self) -> list[Tensor]:
        """All that conditions the picture, tower after tower, in the order of their names."""
        return [weight for tower in self.towers for _, weight in tower.weights()]

    def fingerprint(self) -> str:
        """SHA-256 of the weights in float32; no LoRA attached."""
        return digest_of(self.weights())


def weights_of(tower: TextTower, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tower's own of a model's lent weights, under CLIPTextModel names."""
    found = {name: value for name, value in weights.items() if name.startswith(tower.prefix)}
    return {name.removeprefix(tower.prefix): value for name, value in found.items()}


def digest_of(weights: Iterable[Tensor], given_up: Event | None = None) -> str:
    """Of the weights' float32 values, one tensor after the other; "" once it is given up."""
    digest = hashlib.sha256()
    for weight in weights:
        for part in weight.detach().flatten().split(AT_ONCE):
            if given_up is not None and given_up.is_set():
                return ""
            digest.update(part.cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


class Fingerprint:
    """A digest that a thread takes: hashlib lets other threads run meanwhile."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        """Begin; nobody may write to the weights before `result` or `close`."""
        self._given_up = Event()
        self._thread = ThreadPoolExecutor(1, "fingerprint")
        self._digest = self._thread.submit(digest_of, list(weights), self._given_up)

    def result(self) -> str:
        """The digest, as soon as it is there."""
        return self._digest.result()

    def close(self) -> None:
        """End the thread, whether it is done or not."""
        self._given_up.set()
        self._thread.shutdown()
