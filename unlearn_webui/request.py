"""What a user asks for, in the tab or over the API: one request, checked in one place."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_core.concept import (
    COVERS,
    KINDS,
    SMALLEST_PICTURE,
    Concept,
    Covers,
    Kind,
    Nameless,
    as_typed,
)
from unlearn_core.errors import BadConcept, BadSettings
from unlearn_core.names import MOST_LETTERS, MOST_NAMES
from unlearn_core.settings import (
    DEFAULT_PRESET,
    PRESETS,
    UnlearnSettings,
    help_of,
    preset,
    presets_where,
)

from .uploads import check_count, check_texts, pictures_from_base64

TUNABLE = ("seed", "steps", "rank", "layers", "forget_weight")
"""The engine's settings that a request may set; None leaves the preset's value."""

MOST_TYPED = MOST_NAMES * MOST_LETTERS
"""Letters of a field: as many words as a concept takes, each as long as one may be."""


def help_for(name: str) -> str:
    """What a field of the request means, for the tab and the API's page."""
    item = next(item for item in dataclasses.fields(ForgetRequest) if item.name == name)
    return str(item.metadata["help"]) if item.metadata else help_of(name)


def typed_number(name: str, text: str) -> Any:
    """A setting as it is typed into the tab; None for an empty field. Raises BadSettings."""
    text = text.strip()
    if not text:
        return None
    kind = type(getattr(UnlearnSettings(), name))
    try:
        return kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise BadSettings(f"{name} is {text[:40]!r}; write {what}, or nothing.") from error


def _said(default: Any, text: str, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class ForgetRequest:
    """A run that was asked for. Raises BadConcept or BadSettings when it can't be done."""

    names: str = _said(
        "",
        "What prompts call it; further names after commas: dog, puppy. Empty: the model's own word "
        "for the pictures.",
    )
    pictures: tuple[Tensor, ...] = _said((), "Pictures of it; 4 or 5 are enough.")
    """Each (3, h, w) float32 in [-1, 1]."""
    kind: Kind = dataclasses.field(
        default="object",
        metadata={
            "help": "For person and unsafe no picture of it is shown or written.",
            "choices": KINDS,
        },
    )
    stand_in: str = _said("", "What is drawn in its place. Empty: a near word is chosen.")
    keep: str = _said("", "Words that must stay, with commas. Near words are kept anyway.")
    covers: Covers = dataclasses.field(
        default="word",
        metadata={
            "help": "word: what else it names stays. kinds: of fruit the apples and pears go too.",
            "choices": COVERS,
        },
    )
    preset: str = _said(DEFAULT_PRESET, "How much is done.", choices=tuple(PRESETS))
    seed: int | None = None
    steps: int | None = None
    rank: int | None = None
    layers: str | None = None
    forget_weight: float | None = None
    save_embedding: bool = _said(
        False,
        "Write what was learned from the pictures as an embedding too: a recipe for the concept, "
        "keep it to yourself.",
    )
    private: bool = _said(
        False, "A neutral file name; hashes instead of names; no picture beside the LoRA."
    )
    measure: bool = _said(
        True,
        "Draw about 100 pictures, before, after and at other strengths, and compare them: minutes "
        "on a GPU.",
    )

    def __post_init__(self) -> None:
        """Check the types of what JSON may bring, then concept and settings."""
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            for kind in (str, bool):
                if isinstance(item.default, kind) and not isinstance(value, kind):
                    raise BadSettings(
                        f"{item.name} is {reprlib.repr(value)}; it must be of {kind.__name__}."
                    )
            if isinstance(value, str):
                _check_text(item.name, value)
        concept, settings = self.concept, self.settings
        if isinstance(concept, Nameless) and not concept.images:
            raise BadConcept(
                "There is no name and no picture: write what prompts call it, such as dog, or give "
                "4 or 5 pictures, for which the model's own word is found."
            )
        learns = concept.images and settings.learns_vectors
        if self.save_embedding and not learns:
            raise BadSettings(
                "The embedding holds what is learned from pictures: give some, and choose a preset "
                f"that learns from them ({presets_where(learns_vectors=True)})."
            )

    @property
    def concept(self) -> Concept | Nameless:
        """What is to be forgotten, as the engine takes it."""
        stand_in = self.stand_in or None
        words = as_typed(self.names, self.kind, "", stand_in, self.keep, self.covers)
        return words.replace(images=self.pictures)

    @property
    def settings(self) -> UnlearnSettings:
        """The preset with what was set beside it."""
        chosen = {name: getattr(self, name) for name in TUNABLE}
        return preset(
            self.preset, **{name: value for name, value in chosen.items() if value is not None}
        )

    @classmethod
    def decoding_last(
        cls, count: int, read: Callable[[bool], tuple[Tensor, ...]], **values: Any
    ) -> ForgetRequest:
        """A request whose `count` pictures are decoded by `read` when all else has been checked.

        `read` is told whether the run will use them. Raises as it does, and as the request.
        """
        check_count(count)
        request = cls(**values, pictures=(_NOT_READ_YET,) * count)
        used = request.settings.uses_pictures or isinstance(request.concept, Nameless)
        return dataclasses.replace(request, pictures=read(used)) if count else request

    @classmethod
    def from_json(cls, content: object, first_preset: str = DEFAULT_PRESET) -> ForgetRequest:
        """From what the API was sent; `first_preset` counts where none is named.

        Raises BadConcept, BadSettings or BadFile.
        """
        known = [item.name for item in dataclasses.fields(cls)]
        if not isinstance(content, dict):
            raise BadSettings(f"Send a JSON object with some of: {', '.join(known)}.")
        unknown = sorted(str(name) for name in content if name not in known)
        if unknown:
            raise BadSettings(f"Unknown: {', '.join(unknown)}. Known: {', '.join(known)}.")
        values: dict[str, Any] = {"preset": first_preset, **content}
        texts = check_texts(values.pop("pictures", []))
        for name, value in values.items():
            _check_value(name, value)
        return cls.decoding_last(
            len(texts), lambda used: pictures_from_base64(texts, used), **values
        )


_NOT_READ_YET = torch.zeros(()).expand(3, SMALLEST_PICTURE, SMALLEST_PICTURE)


def _check_value(name: str, value: object) -> None:
    """Raise BadSettings for what no field takes and could be large."""
    if isinstance(value, (list, dict)):
        raise BadSettings(f"{name} is a list or an object; it must be one value.")
    if isinstance(value, int) and abs(value) >= 2**64:
        raise BadSettings(f"{name} is a number beyond all bounds.")


def _check_text(name: str, text: str) -> None:
    if len(text) > MOST_TYPED:
        raise BadSettings(f"{name} has {len(text)} letters; write {MOST_TYPED} at most.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadSettings(f"{name} holds half of a character: write it again.") from error
