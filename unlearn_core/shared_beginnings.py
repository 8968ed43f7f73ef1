"""Many prompts through the text encoder, each beginning that they share only once.

The encoder is causal: what it makes of a prompt's first words does not depend on what follows. So
the prompts become a tree of tokens, and the tree one sequence, in which every token sees itself and
those before it in its own prompt (tree attention, as in SpecInfer, Miao et al. 2023, arXiv
2305.09781).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .lent_model import RunMonitor, stop_if_asked
from .text_encoder import TextEncoder

MOST_TOKENS = 768
"""In one pass. Attention grows with the square, and is an eighth of the work at this length."""


@dataclass(frozen=True)
class TokenTree:
    """The different tokens, by beginning, of n prompts of T tokens: L of them."""

    token_ids: Tensor
    """(L,) int64."""
    positions: Tensor
    """(L,) int64: where the token stands in its prompts."""
    sees: Tensor
    """(L, L) bool: row i says what token i sees."""
    place: Tensor
    """(n, T) int64: where each prompt's tokens lie among the L."""


@torch.no_grad()
def encode_all(
    encoder: TextEncoder,
    token_ids: Tensor,
    learned: Tensor | None = None,
    monitor: RunMonitor | None = None,
) -> tuple[Tensor, Tensor]:
    """(states before the tail, conditioning) of N prompts (N, T), each (N, T, width) float32.

    The same as `TextEncoder.prefix` and `encode` up to rounding. Raises Cancelled between two
    passes if the user asked to stop.
    """
    unique, place = token_ids.cpu().unique(dim=0, return_inverse=True)  # sorted: alike lie together
    states, conditioning = [], []
    for tree in token_trees(unique.tolist()):
        if monitor is not None:
            stop_if_asked(monitor)
        of_tree = encoder.encode_tree(tree.token_ids, tree.positions, tree.sees, learned)
        before, after = (part[tree.place.to(part.device)] for part in of_tree)
        states.append(before)
        conditioning.append(after)
    place = place.to(encoder.device)
    return torch.cat(states)[place], torch.cat(conditioning)[place]


def token_trees(rows: Sequence[Sequence[int]], most: int = MOST_TOKENS) -> Iterator[TokenTree]:
    """Trees of consecutive prompts, none larger than `most` unless one prompt alone is."""
    nodes: dict[tuple[int, int], int] = {}
    paths: list[list[int]] = []
    for row in rows:
        if paths and len(nodes) + _new(row, nodes) > most:
            yield _tree(nodes, paths)
            nodes, paths = {}, []
        path, parent = [], -1
        for token in row:
            parent = nodes.setdefault((parent, token), len(nodes))
            path.append(parent)
        paths.append(path)
    if paths:
        yield _tree(nodes, paths)


def _new(row: Sequence[int], nodes: dict[tuple[int, int], int]) -> int:
    parent = -1
    for position, token in enumerate(row):
        found = nodes.get((parent, token))
        if found is None:
            return len(row) - position
        parent = found
    return 0


def _tree(nodes: dict[tuple[int, int], int], paths: list[list[int]]) -> TokenTree:
    count = len(nodes)
    sees = torch.eye(count, dtype=torch.bool)
    positions = [0] * count
    for (parent, _), node in nodes.items():  # a parent always comes before its children
        if parent >= 0:
            sees[node] |= sees[parent]
            positions[node] = positions[parent] + 1
    return TokenTree(
        torch.tensor([token for _, token in nodes]),
        torch.tensor(positions),
        sees,
        torch.tensor(paths),
    )
