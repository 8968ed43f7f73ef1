"""The node Unlearning Settings: every setting of the engine, with its own default and bounds."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..unlearn_core.settings import (
    DEFAULT_PRESET,
    PRESETS,
    UnlearnSettings,
    removed_in_words,
)
from .node_api import ADVANCED, found_by, io
from .values import CATEGORY_ADVANCED, SettingsWire, said

_RARELY_SET = frozenset((
    "modules", "closed_form", "objective", "forget_weight", "keep_weight", "guard_weight",
    "null_space_guard", "forget_prompts", "keep_prompts", "inversion_learning_rate",
    "caption_styles",
))  # fmt: skip


def _input(item: dataclasses.Field[Any], default: Any) -> io.Input:
    shown: dict[str, Any] = {"default": default, "tooltip": item.metadata["help"]}
    shown |= ADVANCED if item.name in _RARELY_SET else {}
    if "choices" in item.metadata:
        return io.Combo.Input(item.name, options=list(item.metadata["choices"]), **shown)
    if isinstance(default, bool):
        return io.Boolean.Input(item.name, **shown)
    if "bounds" not in item.metadata:
        return io.String.Input(item.name, **shown)
    low, high = item.metadata["bounds"]
    if isinstance(default, int):
        return io.Int.Input(item.name, min=low, max=high, **shown)
    # The arrows' step: a twentieth for weights and strengths, the lowest value for learning rates.
    step = 0.05 if low == 0 or low >= 0.1 else low
    return io.Float.Input(item.name, min=low, max=high, step=step, round=False, **shown)


class UnlearningSettings(io.ComfyNode):
    """All settings, for those who want more than a preset."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One input for each field of the engine's settings but the seed."""
        defaults = PRESETS[DEFAULT_PRESET]
        return io.Schema(
            **found_by("unlearning options", "training settings", "hyperparameters"),
            node_id="UnlearnSettings",
            display_name="Unlearning Settings",
            category=CATEGORY_ADVANCED,
            description="Every setting of the unlearning. Starts at the preset balanced; wired "
            "into Forget Concept or Invert Concept it takes the preset's place.",
            inputs=[
                _input(item, getattr(defaults, item.name))
                for item in dataclasses.fields(UnlearnSettings)
                if item.name != "seed"
            ],
            outputs=[
                SettingsWire.Output(
                    display_name="settings", tooltip="For Forget Concept and Invert Concept."
                )
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        """Check the values together; what an older workflow asks for beside them is said."""
        asked = (cls.hidden.prompt or {}).get(cls.hidden.unique_id, {}).get("inputs", {})
        removed = removed_in_words(asked)
        settings = UnlearnSettings.from_dict(values)
        return io.NodeOutput(settings, ui=said(removed))
