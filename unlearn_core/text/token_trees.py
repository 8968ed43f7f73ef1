"""Prefix sharing: many prompts through the text encoder, each prefix that they share only once.

The encoder is causal: what it makes of a prompt's first words does not depend on what follows. So
the prompts become trees of tokens, and each tree one sequence, in which every token sees itself and
those before it in its own prompt (tree attention, as in SpecInfer, Miao et al. 2023, arXiv
2305.09781).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..progress import RunMonitor
from .tower_encoder import TowerEncoder, end_positions

MOST_TOKENS = 384
"""In one tree. Attention grows with the square; a smaller tree repeats more prefixes."""

Encoded = tuple[Tensor, Tensor]
"""States of N prompts: (N, T, width) before the tail, and (N, T + extra, width) as `TowerEncoder`
gives them, float32."""


@dataclass(frozen=True)
class TokenTrees:
    """The different tokens, by prefix, of many prompts: B trees of at most L tokens."""

    token_ids: Tensor
    """(B, L) int64; a smaller tree ends in zeros, which no prompt has a place for."""
    positions: Tensor
    """(B, L) int64: where the token stands in its prompts."""
    sees: Tensor
    """(B, L, L) bool: row i says what token i of its tree sees."""
    places: list[list[int]]
    """Of each prompt: where its tokens lie among the B * L."""


def encode_all(
    tower: TowerEncoder,
    token_ids: Tensor,
    learned: Tensor | None = None,
    monitor: RunMonitor | None = None,
) -> Encoded:
    """What `encode_groups` makes of prompts of one length."""
    (encoded,) = encode_groups(tower, [token_ids], learned, monitor)
    return encoded


def encode_groups(
    tower: TowerEncoder,
    groups: Sequence[Tensor],
    learned: Tensor | None = None,
    monitor: RunMonitor | None = None,
) -> list[Encoded]:
    """Prompts of several lengths, (N, T) each, which share their prefixes with one another.

    What comes out is what `TowerEncoder.encode` gives, up to rounding in the tower's `products`.
    Raises Cancelled if the user asked to stop.
    """
    groups = [tower.padded(group) for group in groups]
    rows = [tuple(row) for group in groups for row in group.tolist()]
    unique = sorted(set(rows))  # alike lie together
    trees = token_trees(unique)
    encoded = tower.encode_trees(trees.token_ids, trees.positions, trees.sees, learned, monitor)
    before, after, last = (part.flatten(0, 1) for part in encoded)
    place_of = dict(zip(unique, trees.places, strict=True))
    found, start = [], 0
    for group in groups:
        places = [place_of[row] for row in rows[start : start + len(group)]]
        place = torch.tensor(places, device=tower.device).view(group.shape)
        states = after[place]
        if tower.extra:
            at_end = place.gather(1, end_positions(group).to(place)[:, None])
            states = torch.cat([states, tower.pool(last[at_end])], 1)
        found.append((before[place], states))
        start += len(group)
    return found


def token_trees(rows: Sequence[Sequence[int]], most: int = MOST_TOKENS) -> TokenTrees:
    """Trees of consecutive prompts, none larger than `most` unless one prompt alone is."""
    trees: list[dict[tuple[int, int], int]] = [{}]
    paths: list[tuple[int, list[int]]] = []
    for row in rows:
        new = _new(row, trees[-1])
        if trees[-1] and new and len(trees[-1]) + new > most:
            trees.append({})
        nodes, path, parent = trees[-1], [], -1
        for token in row:
            parent = nodes.setdefault((parent, token), len(nodes))
            path.append(parent)
        paths.append((len(trees) - 1, path))
    size = max(map(len, trees))
    ids, positions = (torch.zeros(len(trees), size, dtype=torch.int64) for _ in range(2))
    sees = torch.eye(size, dtype=torch.bool).repeat(len(trees), 1, 1)
    for number, nodes in enumerate(trees):
        _fill(nodes, ids[number], positions[number], sees[number])
    places = [[tree * size + node for node in path] for tree, path in paths]
    return TokenTrees(ids, positions, sees, places)


def _new(row: Sequence[int], nodes: dict[tuple[int, int], int]) -> int:
    parent = -1
    for position, token in enumerate(row):
        found = nodes.get((parent, token))
        if found is None:
            return len(row) - position
        parent = found
    return 0


def _fill(nodes: dict[tuple[int, int], int], ids: Tensor, positions: Tensor, sees: Tensor) -> None:
    """Write a tree's nodes, (parent, token) -> place, into its rows."""
    depth = [0] * len(nodes)
    for (parent, _), node in nodes.items():  # a parent always comes before its children
        if parent >= 0:
            sees[node] |= sees[parent]
            depth[node] = depth[parent] + 1
    ids[: len(nodes)] = torch.tensor([token for _, token in nodes])
    positions[: len(nodes)] = torch.tensor(depth)
