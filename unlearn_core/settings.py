"""Every setting of the engine with its default, its bounds and its explanation; the presets.

Hosts read defaults, bounds and tooltips from here (`bounds_of`, `help_of`), so that a node, a
slider and a command-line flag can't disagree.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from .errors import BadSettings

logger = logging.getLogger(__name__)

REMOVED = (
    "image_weight", "strength_low", "strength_high", "templates", "keep_nearest",
    "adversary_every", "adversary_steps", "inversion_vectors",
)  # fmt: skip
"""Names that older versions had; what they saved may still hold them."""

_LAYERS = re.compile(r"all|(last|first):[1-9]\d{0,2}|\d{1,3}(-\d{1,3})?")


def _number(default: float, low: float, high: float, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"bounds": (low, high), "help": text})


def _choice(default: str, choices: tuple[str, ...], text: str) -> Any:
    return dataclasses.field(default=default, metadata={"choices": choices, "help": text})


def _plain(default: bool | str, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class UnlearnSettings:
    """How to forget. Raises BadSettings on construction when a value is out of bounds."""

    seed: int = _number(0, 0, 2**31 - 1, "Seed of every random draw; same seed, same file.")

    layers: str = _plain(
        "last:3",
        "Text encoder layers that the LoRA changes: last:3, first:1, 20-22 or all, or several of "
        "these with commas. Counted among the layers that condition the picture.",
    )
    modules: str = _choice(
        "all", ("all", "attention", "mlp"), "Which projections of these layers the LoRA changes."
    )
    rank: int = _number(8, 1, 128, "Rank of the LoRA: how much it can change.")

    steps: int = _number(150, 0, 5000, "Most steps; it ends once held-out prompts stand still.")
    learning_rate: float = _number(3e-3, 1e-6, 1.0, "Peak learning rate of Adam on the LoRA.")
    batch_size: int = _number(16, 2, 256, "Prompts to forget per step; as many are kept.")
    closed_form: bool = _plain(False, "Start from a least-squares solution instead of from zero.")

    objective: str = _choice(
        "stand-in",
        ("stand-in", "ascent"),
        "stand-in: the concept's prompts are moved onto the stand-in's. "
        "ascent: the pictures' denoising loss is raised, as in the paper.",
    )
    forget_weight: float = _number(1.0, 0.0, 100.0, "Weight of forgetting the concept.")
    keep_weight: float = _number(2.0, 0.0, 100.0, "Weight of keeping everything else.")
    guard_weight: float = _number(1.0, 0.0, 100.0, "Weight of the empty and negative prompts.")
    null_space_guard: bool = _plain(
        True, "Forbid any change that the empty prompt would feel, by projecting the LoRA."
    )
    forget_prompts: int = _number(512, 8, 4096, "Different prompts with the concept in them.")
    keep_prompts: int = _number(384, 8, 8192, "Different prompts that must not change.")

    stand_in_pictures: int = _number(
        16, 0, 256, "Pictures drawn for a stand-in to see that they don't show the concept."
    )

    adversary: str = _choice(
        "none",
        ("none", "pgd"),
        "pgd: while training, search word vectors that bring the concept back, and forget these.",
    )

    use_pictures: bool = _plain(True, "Learn word vectors from the pictures and forget these too.")
    inversion_steps: int = _number(150, 0, 5000, "Steps of textual inversion.")
    inversion_learning_rate: float = _number(
        0.1, 1e-5, 10.0, "Adam's step on a learned vector, relative to the size of its elements."
    )
    caption_styles: int = _number(
        8, 0, 32, "Style words that may caption the pictures, so that the vectors carry no style."
    )
    inversion_batch: int = _number(8, 1, 64, "Noised pictures per inversion step.")

    def __post_init__(self) -> None:
        """Check every value against its bounds."""
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            _check_type(item.name, value, item.default)
            if "bounds" in item.metadata:
                low, high = item.metadata["bounds"]
                if not low <= value <= high:  # also refuses NaN
                    raise BadSettings(
                        f"{item.name} is {value}; it must lie between {low} and {high}."
                    )
            if "choices" in item.metadata and value not in item.metadata["choices"]:
                allowed = ", ".join(item.metadata["choices"])
                raise BadSettings(f"{item.name} is {value!r}; it must be one of: {allowed}.")
        if not all(_LAYERS.fullmatch(part) for part in self.layers.split(",")):
            raise BadSettings(
                f"layers is {self.layers!r}; write last:3, first:1, 20-22, a single number, or "
                "all, or several of these with commas."
            )

    def __str__(self) -> str:
        """What differs from the default preset, a line each."""
        usual = PRESETS[DEFAULT_PRESET]
        own = [f"{k}: {v}" for k, v in self.as_dict().items() if v != getattr(usual, k)]
        return "\n".join([f"the preset {DEFAULT_PRESET}{', but' if own else ''}", *own])

    @property
    def needs_pictures(self) -> bool:
        """Whether these settings can't do without pictures of the concept."""
        return self.objective == "ascent"

    @property
    def needs_unet(self) -> bool:
        """Whether they can't do without the UNet; least squares without pictures need not draw."""
        must_draw = self.use_pictures or not self.closed_form
        return self.needs_pictures or (must_draw and self.stand_in_pictures > 0)

    @property
    def learns_vectors(self) -> bool:
        """Whether word vectors are learned from the pictures, where there are any."""
        return self.use_pictures and self.inversion_steps > 0

    @property
    def uses_pictures(self) -> bool:
        """Whether pictures of a concept that has a name change anything."""
        return self.needs_pictures or self.learns_vectors

    def replace(self, **changes: Any) -> UnlearnSettings:
        """A copy with other values; raises BadSettings for an unknown name."""
        _check_names(changes)
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Name to value, for reports and metadata."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> UnlearnSettings:
        """The inverse of `as_dict`; warns of REMOVED settings, raises BadSettings for unknown."""
        if line := removed_in_words(values):
            logger.warning(line)
        return cls().replace(**{k: v for k, v in values.items() if k not in REMOVED})


def _check_type(name: str, value: object, default: object) -> None:
    kinds = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, kinds) or (isinstance(value, bool) and not isinstance(default, bool)):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise BadSettings(f"{name} is {value!r}; it must be of type {wanted}.")


def removed_in_words(names: Collection[str]) -> str:
    """A line for the user about the REMOVED settings among these names; empty without one."""
    removed = [name for name in REMOVED if name in names]
    return " ".join(f"{name} is no longer a setting and was left out." for name in removed)


def _check_names(values: dict[str, Any]) -> None:
    known = {item.name for item in dataclasses.fields(UnlearnSettings)}
    unknown = sorted(set(values) - known)
    if removed := [name for name in unknown if name in REMOVED]:
        raise BadSettings(f"No longer a setting: {', '.join(removed)}. Leave it out.")
    if unknown:
        raise BadSettings(f"Unknown setting: {', '.join(unknown)}. Known: {', '.join(known)}.")


def bounds_of(name: str) -> tuple[float, float]:
    """Lowest and highest value of a numeric setting."""
    low, high = _field(name).metadata["bounds"]
    return low, high


def help_of(name: str) -> str:
    """One or two sentences on a setting, for tooltips and `--help`."""
    return str(_field(name).metadata["help"])


def _field(name: str) -> dataclasses.Field[Any]:
    _check_names({name: None})
    return next(item for item in dataclasses.fields(UnlearnSettings) if item.name == name)


DEFAULT_PRESET = "balanced"

PRESETS: dict[str, UnlearnSettings] = {
    "quick": UnlearnSettings(
        steps=0,
        layers="last:1",
        closed_form=True,
        use_pictures=False,
        stand_in_pictures=8,
        forget_prompts=256,
        keep_prompts=256,
    ),
    "balanced": UnlearnSettings(),
    "robust": UnlearnSettings(steps=200, rank=16, layers="all", adversary="pgd"),
    "paper": UnlearnSettings(
        objective="ascent",
        layers="last:2",
        modules="attention",
        rank=4,
        steps=60,
        learning_rate=1e-2,
        use_pictures=False,
        stand_in_pictures=0,
        null_space_guard=False,
        guard_weight=0.0,
    ),
}

PRESET_HELP: dict[str, str] = {
    "quick": "One least-squares solution, no steps; pictures unused, needs no UNet.",
    "balanced": "The default: names, synonyms and, with pictures, learned vectors.",
    "robust": "Slower: an adversary searches ways back while training.",
    "paper": "The idea of arXiv 2505.12395: raise the pictures' loss, keep the rest. For "
    "comparison.",
}


def preset(name: str, **changes: Any) -> UnlearnSettings:
    """A preset's settings with some values changed; raises BadSettings for unknown names."""
    if name not in PRESETS:
        raise BadSettings(f"Unknown preset {name!r}; choose one of: {', '.join(PRESETS)}.")
    return PRESETS[name].replace(**changes)


def presets_where(**said: bool) -> str:
    """The presets that say this of themselves (needs_unet=False), as a sentence names them."""
    *names, last = [
        name
        for name, settings in PRESETS.items()
        if all(getattr(settings, what) == value for what, value in said.items())
    ]
    return f"{', '.join(names)} or {last}" if names else last
