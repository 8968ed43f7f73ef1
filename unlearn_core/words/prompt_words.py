"""What a prompt says besides plain words: emphasis, embeddings by their names, tags for LoRAs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from ..errors import BadSettings
from ..text.tokenizer import VOCABULARY, strip_weights, token_ids

_COMFY_MARK = "embedding:"
"""What ComfyUI's prompts have before an embedding's name; it may stand here too."""
_LORA_TAG = re.compile(r"<(?:lora|lyco):[^<>]*>", re.IGNORECASE)
_FIRST_MARK = 0xF0000
"""Characters from here on are nobody's; one stands for each embedding while a prompt is read."""


def prompt_ids(prompt: str, placeholders: Mapping[str, Sequence[int]]) -> Tensor:
    r"""A prompt as (chunks, 77) int64, see `token_ids`; emphasis is read as the bare words.

    Names of placeholders are looked for before that, so "my cat (v1)" is found as it is written,
    and as "my cat \(v1\)"; "embedding:" in front of one is part of it.
    """
    if not placeholders:
        return token_ids(strip_weights(prompt))
    marks = _marks(placeholders)
    text = strip_weights(_marked(prompt, marks))
    return token_ids(text, {marks[name]: placeholders[name] for name in marks})


def notes_on_embeddings(prompts: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """What the user should know of embeddings that no prompt says, or that are not given."""
    marks = _marks(names)
    numbers = {name: [VOCABULARY + number] for number, name in enumerate(names)}
    said = {int(number) for text in prompts for number in prompt_ids(text, numbers).unique()}
    for name, (number,) in numbers.items():
        if number not in said:
            yield f"no prompt says {name!r}, so this embedding has no effect."
    asked = {
        found
        for text in prompts
        for found in re.findall(rf"{_COMFY_MARK}[^\s,()]+", _marked(text, marks))
    }
    for word in sorted(asked):
        yield f"a prompt says {word[:100]!r}, and no --embedding is named so: it is read as words."


def _marks(names: Iterable[str]) -> dict[str, str]:
    names = tuple(names)
    if not all(name.strip() for name in names):
        raise BadSettings("An embedding's name is empty: rename its file.")
    return {name: chr(_FIRST_MARK + number) for number, name in enumerate(names)}


def _marked(prompt: str, marks: Mapping[str, str]) -> str:
    """The prompt with the mark of each embedding in the place of its name."""
    if not marks:
        return prompt
    plain = "".join(letter for letter in prompt if letter not in marks.values())
    written = {_escaped(name): mark for name, mark in marks.items()} | dict(marks)
    longest_first = "|".join(map(re.escape, sorted(written, key=len, reverse=True)))
    names = re.compile(rf"(?<!\w)(?:{_COMFY_MARK})?({longest_first})(?!\w)")
    return names.sub(lambda found: f" {written[found[1]]} ", plain)


def refuse_lora_tags(prompt: str) -> None:
    """Raise BadSettings for a tag such as <lora:dog:1>, which the WebUI reads and this does not."""
    found = _LORA_TAG.search(prompt)
    if found is not None:
        tag = found[0] if len(found[0]) <= 60 else f"{found[0][:60]}..."
        raise BadSettings(
            f"The prompt holds {tag}, which only the WebUI reads: take it out, and give "
            "--lora FILE:STRENGTH."
        )


def _escaped(name: str) -> str:
    return re.sub(r"[()\[\]]", r"\\\g<0>", name)
