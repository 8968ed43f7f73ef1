"""Writes the prompts that a run forgets and keeps, from words that the model knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..concept import Concept, Kind, Nameless
from ..text.tokenizer import tokenize
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
from .prompts import (
    FilledTemplate,
    ForgetPrompts,
    Name,
    Prompts,
    fill,
    make_prompts,
    pair_prompts,
)


@dataclass(frozen=True)
class Surroundings:
    """Words to put around a concept, all known to the model."""

    nouns: tuple[str, ...]
    styles: tuple[str, ...]
    colors: tuple[str, ...] = COLORS
    fillers: tuple[str, ...] = FILLERS


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
        templates: tuple[str, ...]
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
        rows: list[tuple[FilledTemplate, FilledTemplate]] = []
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


def plain_template(concept: Concept | Nameless) -> str:
    """The simplest prompt for the concept's kind."""
    return "a picture in {it} style" if concept.kind == "style" else "a photo of {it}"
