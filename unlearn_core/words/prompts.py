"""Prompts as rows of tokens with roles, and the alignment of two prompts.

Every prompt is one chunk of 77 tokens: the hosts encode each chunk alone, so a concept in the
second chunk of a long prompt is met here as a concept late or early in one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concept import Kind
from ..text.tokenizer import BOS, CHUNK, EOS, PAD, PIECES, VOCABULARY, tokenize

ROLE_BOS, ROLE_CONCEPT, ROLE_WORD, ROLE_EOS, ROLE_PAD, ROLE_POOLED = range(6)
"""What a state is of; the last one is the pooled vector, which stands behind those of tokens."""

OWN_STATE = -1
"""In `ForgetPrompts.source`: this position keeps the state that it has."""


@dataclass(frozen=True)
class Name:
    """One name of something as it stands in a prompt: its tokens, and how it takes an article."""

    text: str
    ids: tuple[int, ...]
    takes_article: bool

    @classmethod
    def of(cls, text: str, kind: Kind = "object") -> Name:
        """The name for a word; plurals, proper names and styles take no article."""
        plural = text.endswith("s") and not text.endswith(("ss", "us", "is"))
        proper = text[:1].isupper() or kind in ("person", "style")
        return cls(text, tuple(tokenize(text)), not (plural or proper))

    @property
    def is_learned(self) -> bool:
        """Whether it is made of learned vectors and not of words."""
        return any(token >= VOCABULARY for token in self.ids)

    @property
    def article(self) -> str:
        """`a `, `an ` or nothing."""
        if not self.takes_article:
            return ""
        return "an " if self.text[:1].lower() in "aeiou" else "a "


@dataclass(frozen=True)
class Prompts:
    """N prompts of one chunk each."""

    texts: tuple[str, ...]
    token_ids: Tensor
    """(N, 77) int64."""
    roles: Tensor
    """(N, 77) int64, ROLE_BOS to ROLE_PAD."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def ends(self) -> Tensor:
        """(N,) int64: the position of EOS."""
        return (self.roles == ROLE_EOS).int().argmax(1)


@dataclass(frozen=True)
class ForgetPrompts(Prompts):
    """Prompts with the concept, and where each position's target stands in the stand-in's prompt.

    The target of position p is the state of the stand-in's prompt at `source[p]`, or the prompt's
    own state where that is OWN_STATE. The encoder is causal: what stands before the concept can't
    know of it and keeps its state.
    """

    stand_in_ids: Tensor
    """(N, 77) int64."""
    source: Tensor
    """(N, 77) int64."""


@dataclass(frozen=True)
class FilledTemplate:
    """Tokens before the name, the name's, and after it; and the prompt as text."""

    before: tuple[int, ...]
    name: tuple[int, ...]
    after: tuple[int, ...]
    text: str

    def cut(self, room: int) -> FilledTemplate:
        """At most 75 - room tokens: the end is cut first, then the beginning."""
        most = PIECES - room
        after = self.after[: max(0, most - len(self.name) - len(self.before))]
        excess = max(0, len(self.before) + len(self.name) - most)
        return FilledTemplate(self.before[excess:], self.name, after, self.text)

    @property
    def span(self) -> tuple[int, int]:
        """First position of the name and first behind it; BOS stands at 0."""
        start = 1 + len(self.before)
        return start, start + len(self.name)

    @property
    def end(self) -> int:
        """The position of EOS."""
        return 1 + len(self.before) + len(self.name) + len(self.after)

    def ids(self) -> list[int]:
        row = [BOS, *self.before, *self.name, *self.after, EOS]
        return row + [PAD] * (CHUNK - len(row))

    def roles(self) -> list[int]:
        start, stop = self.span
        roles = [ROLE_WORD] * CHUNK
        roles[0] = ROLE_BOS
        roles[start:stop] = [ROLE_CONCEPT] * (stop - start)
        roles[self.end] = ROLE_EOS
        roles[self.end + 1 :] = [ROLE_PAD] * (CHUNK - self.end - 1)
        return roles


def fill(template: str, name: Name) -> FilledTemplate:
    """Put a name into a template's `{it}` (with its article) or `{bare}` (without)."""
    slot = "{it}" if "{it}" in template else "{bare}"
    before, after = template.split(slot)
    if slot == "{it}":
        before += name.article
    text = f"{before}{name.text}{after}"
    return FilledTemplate(tuple(tokenize(before)), name.ids, tuple(tokenize(after)), text)


def make_prompts(filled: Sequence[FilledTemplate]) -> Prompts:
    """Prompts from filled templates, cut to one chunk."""
    rows = [row.cut(0) for row in filled]
    return Prompts(
        tuple(row.text for row in rows),
        torch.tensor([row.ids() for row in rows]),
        torch.tensor([row.roles() for row in rows]),
    )


def whole_prompts(texts: Sequence[str]) -> Prompts:
    """Prompts with no concept in them, for guards; each text is cut to one chunk."""
    return make_prompts([FilledTemplate(tuple(tokenize(text)), (), (), text) for text in texts])


def pair_prompts(pairs: Sequence[tuple[FilledTemplate, FilledTemplate]]) -> ForgetPrompts:
    """Align each concept prompt with its stand-in prompt, see `align`."""
    cut = []
    for concept, stand_in in pairs:
        longer = max(0, concept.end - stand_in.end), max(0, stand_in.end - concept.end)
        cut.append((concept.cut(longer[1]), stand_in.cut(longer[0])))
    prompts = make_prompts([concept for concept, _ in cut])
    return ForgetPrompts(
        prompts.texts,
        prompts.token_ids,
        prompts.roles,
        torch.tensor([stand_in.ids() for _, stand_in in cut]),
        torch.tensor([align(c.span, c.end, s.span, s.end) for c, s in cut]),
    )


def align(
    span: tuple[int, int], end: int, other_span: tuple[int, int], other_end: int
) -> list[int]:
    """For each of 77 positions, its place in the other prompt.

    Before the concept OWN_STATE; the concept's span on the other span, whose last position is
    reused when it is shorter; what follows is shifted; EOS on EOS; pads on pads.
    """
    start, stop = span
    other_start, other_stop = other_span
    source = []
    for position in range(CHUNK):
        if position < start:
            source.append(OWN_STATE)
        elif position < stop:
            source.append(min(other_start + position - start, other_stop - 1))
        elif position <= end:
            source.append(min(position - stop + other_stop, other_end))
        else:
            source.append(max(position, other_end + 1) if other_end + 1 < CHUNK else other_end)
    return source
