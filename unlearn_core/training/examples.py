"""What a run trains on: prompts cut to a few lengths, with all that is frozen about them.

The encoder is causal, so leaving out what stands behind a position changes nothing at it. Behind
EOS there are only pads, dozens of them in a short prompt: most prompts keep PADS of them, and every
WHOLE_EVERY-th prompt keeps all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..lora.encoder_lora import EncoderLora
from ..progress import RunMonitor
from ..text.token_trees import encode_groups
from ..text.tokenizer import CHUNK
from ..text.tower_encoder import end_positions
from ..words.prompts import OWN_STATE, ROLE_POOLED, ForgetPrompts, Prompts
from .losses import RoleScales

LENGTHS = (10, 14, 20, 32, 52, CHUNK)
PADS = 3
WHOLE_EVERY = 24


@dataclass
class Examples:
    """N prompts cut to T positions; those of a retain set have their own states as targets."""

    token_ids: Tensor
    """(N, T) int64."""
    roles: Tensor
    """(N, T + extra) int64."""
    states: Tensor
    """(N, T, width) float32: what enters the first trained layer."""
    targets: Tensor
    """(N, T + extra, width) float32: what the trained tower should give."""

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def length(self) -> int:
        """T."""
        return self.token_ids.shape[1]

    @property
    def ends(self) -> Tensor:
        """(N,) int64: where EOS stands."""
        return end_positions(self.token_ids)

    def cut(self, length: int) -> Examples:
        """The first `length` positions; the pooled vector stays, so EOS must be among them."""
        return Examples(
            self.token_ids[:, :length],
            cut(self.roles, length, self.length),
            self.states[:, :length],
            cut(self.targets, length, self.length),
        )

    def rows(self, chosen: Tensor) -> Examples:
        """Some of the prompts."""
        return Examples(
            self.token_ids[chosen], self.roles[chosen], self.states[chosen], self.targets[chosen]
        )


@dataclass
class ForgetExamples(Examples):
    """Prompts of a forget set; their targets are the stand-in's states."""

    stand_in_states: Tensor
    """(N, T, width) float32: what enters the first trained layer for the stand-in's prompts."""
    source: Tensor
    """(N, T + extra) int64, see `ForgetPrompts`."""


def cut(rows: Tensor, length: int, whole: int) -> Tensor:
    """(N, whole + extra, ...) -> (N, length + extra, ...): what stands behind the tokens stays."""
    kept = rows[:, :length]
    return torch.cat([kept, rows[:, whole:]], 1) if rows.shape[1] > whole else kept


def gather_targets(own: Tensor, stand_in: Tensor, source: Tensor) -> Tensor:
    """The stand-in's states where `source` says they stand, the own ones where it is OWN_STATE.

    own and stand_in (N, T + extra, width), source (N, T + extra).
    """
    source = source.to(own.device)
    gathered = stand_in.gather(1, source.clamp(min=0)[..., None].expand_as(own))
    return torch.where((source == OWN_STATE)[..., None], own, gathered)


def lengths_of(ends: Tensor) -> Tensor:
    """The positions that each prompt keeps, one of LENGTHS; ends (N,) int64 are those of EOS."""
    lengths = torch.tensor(LENGTHS)
    place = torch.searchsorted(lengths, (ends.cpu() + 1 + PADS).clamp(max=CHUNK))
    chosen = lengths[place]
    chosen[::WHOLE_EVERY] = CHUNK
    return chosen


def _by_length(ends: Tensor) -> Iterator[tuple[int, Tensor]]:
    lengths = lengths_of(ends)
    for length in LENGTHS:
        rows = (lengths == length).nonzero().flatten()
        if len(rows):
            yield length, rows


def forget_examples(
    lora: EncoderLora,
    prompts: ForgetPrompts,
    learned: Tensor | None,
    monitor: RunMonitor | None = None,
) -> list[ForgetExamples]:
    """The forget set, a part for each length; targets are the stand-in's aligned states."""
    tower = lora.tower
    # What a prompt keeps must hold the stand-in's EOS too, wherever that stands.
    last = prompts.source.gather(1, prompts.ends[:, None]).flatten()
    cuts = list(_by_length(torch.maximum(prompts.ends, last)))
    own_ids = [prompts.token_ids[rows, :length] for length, rows in cuts]
    other_ids = [prompts.stand_in_ids[rows, :length] for length, rows in cuts]
    with lora.disabled():
        encoded = encode_groups(tower, [*own_ids, *other_ids], learned, monitor)
    parts = []
    for number, (length, rows) in enumerate(cuts):
        (states, own), (other_states, other) = encoded[number], encoded[number + len(cuts)]
        source = tower.extended(prompts.source[rows, :length], length).to(tower.device)
        parts.append(
            ForgetExamples(
                own_ids[number].to(tower.device),
                tower.extended(prompts.roles[rows, :length], ROLE_POOLED).to(tower.device),
                states,
                gather_targets(own, other, source),
                other_states,
                source,
            )
        )
    return parts


def retain_examples(
    lora: EncoderLora, prompts: Prompts, monitor: RunMonitor | None = None
) -> list[Examples]:
    """The retain set, a part for each length."""
    return _retain(lora, prompts, list(_by_length(prompts.ends)), monitor)


def whole_examples(lora: EncoderLora, prompts: Prompts) -> Examples:
    """As `retain_examples`, all with 77 positions."""
    (whole,) = _retain(lora, prompts, [(CHUNK, torch.arange(len(prompts)))], None)
    return whole


def _retain(
    lora: EncoderLora,
    prompts: Prompts,
    cuts: list[tuple[int, Tensor]],
    monitor: RunMonitor | None,
) -> list[Examples]:
    tower = lora.tower
    groups = [prompts.token_ids[rows, :length] for length, rows in cuts]
    with lora.disabled():
        encoded = encode_groups(tower, groups, monitor=monitor)
    return [
        Examples(
            ids.to(tower.device),
            tower.extended(prompts.roles[rows, :length], ROLE_POOLED).to(tower.device),
            states,
            own,
        )
        for ids, (length, rows), (states, own) in zip(groups, cuts, encoded, strict=True)
    ]


def role_scales(parts: Sequence[Examples]) -> RoleScales:
    """The variances of the targets."""
    return RoleScales.measure(
        torch.cat([part.targets.flatten(0, 1) for part in parts]),
        torch.cat([part.roles.flatten() for part in parts]),
    )
