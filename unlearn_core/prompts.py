"""The prompts that are forgotten, kept and guarded, and the alignment of two prompts.

Every prompt is one chunk of 77 tokens: the hosts encode each chunk alone, so a concept in the
second chunk of a long prompt is met here as a concept late or early in one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .concept import Kind
from .prompt_templates import (
    COLORS,
    FILLERS,
    LONG_OBJECT,
    LONG_STYLE,
    PLAIN_OBJECT,
    PLAIN_STYLE,
    VARIED_OBJECT,
    VARIED_STYLE,
)
from .tokenizer import BOS, CHUNK, EOS, PAD, PIECES, VOCABULARY, tokenize

ROLE_BOS, ROLE_CONCEPT, ROLE_WORD, ROLE_EOS, ROLE_PAD = range(5)

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
class Surroundings:
    """Words to put around a concept, all known to the model."""

    nouns: tuple[str, ...]
    styles: tuple[str, ...]
    colors: tuple[str, ...] = COLORS
    fillers: tuple[str, ...] = FILLERS


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


@dataclass
class PromptWriter:
    """Writes prompts from templates; all draws come from one generator."""

    kind: Kind
    surroundings: Surroundings
    generator: torch.Generator
    varied: bool = True
    _templates: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Choose the templates whose slots can be filled."""
        if self.kind == "style":
            templates = (*VARIED_STYLE, *LONG_STYLE) if self.varied else PLAIN_STYLE
        else:
            templates = (*VARIED_OBJECT, *LONG_OBJECT) if self.varied else PLAIN_OBJECT
        around = self.surroundings
        lacking = [
            slot
            for slot, words in (
                ("{style}", around.styles),
                ("{color}", around.colors),
                ("{filler}", around.fillers),
                ("other}", around.nouns[1:]),
            )
            if not words
        ]
        self._templates = tuple(
            template for template in templates if not any(slot in template for slot in lacking)
        )

    def template(self) -> str:
        """One template with all slots but the concept's filled: "a photo of {it}, blue ..."."""
        template = self._pick(self._templates)
        other, another = self._pick_two(self.surroundings.nouns)
        filled = template.replace("{other}", _with_article(other))
        filled = filled.replace("{another}", _with_article(another))
        filled = filled.replace("{bare_other}", other)
        for slot, words in (
            ("{style}", self.surroundings.styles),
            ("{color}", self.surroundings.colors),
        ):
            if slot in filled:
                filled = filled.replace(slot, self._pick(words))
        while "{filler}" in filled:
            filled = filled.replace("{filler}", self._pick(self.surroundings.fillers), 1)
        if "{long}" in filled:
            filled = filled.replace("{long}", self._long_list())
        return filled

    def forget(self, names: Sequence[Name], stand_in: Name, count: int) -> ForgetPrompts:
        """`count` prompts, the names taking turns."""
        rows = []
        while len(rows) < count:
            template = self.template()
            if _mentions(template, stand_in):
                continue  # a repeated word makes its states ambiguous as targets
            name = names[len(rows) % len(names)]
            rows.append((fill(template, name), fill(template, stand_in)))
        return pair_prompts(rows)

    def keep(self, names: Sequence[Name], count: int) -> Prompts:
        """`count` prompts about things that must stay, the names taking turns."""
        return make_prompts([fill(self.template(), names[i % len(names)]) for i in range(count)])

    def _long_list(self) -> str:
        pool = (*self.surroundings.nouns, *self.surroundings.fillers)
        size = int(torch.randint(10, 40, (), generator=self.generator))
        return ", ".join(self._pick(pool) for _ in range(size))

    def _pick(self, items: Sequence[str]) -> str:
        return items[int(torch.randint(len(items), (), generator=self.generator))]

    def _pick_two(self, items: Sequence[str]) -> tuple[str, str]:
        if len(items) < 2:
            return ("", "")
        first, second = torch.randperm(len(items), generator=self.generator)[:2].tolist()
        return items[first], items[second]


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


def _mentions(template: str, name: Name) -> bool:
    ids = tokenize(template.replace("{it}", "").replace("{bare}", ""))
    return any(token in ids for token in name.ids)


def _with_article(word: str) -> str:
    return Name.of(word).article + word


def spellings(word: str) -> tuple[str, ...]:
    """The plural and two slips of the pen of a word of four letters or more: dogs; appel, aple."""
    found = [] if word.endswith("s") else [word + "s"]
    if len(word) >= 4 and word.isalpha():
        found.append(word[:-2] + word[-1] + word[-2])
        found.append(word[:2] + word[3:])
    return tuple(spelling for spelling in dict.fromkeys(found) if spelling != word)
