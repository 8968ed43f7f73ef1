"""The page SD Unlearn in the WebUI's settings, and the WebUI's own Clip skip."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from modules import shared

from unlearn_core.errors import BadConcept
from unlearn_core.files.file_names import safe_file_name
from unlearn_core.settings import DEFAULT_PRESET, PRESETS

_SECTION = ("unlearn", "SD Unlearn")
_PRESET, _FOLDER, _MEMORY = "unlearn_preset", "unlearn_folder", "unlearn_memory_limit"


def add_settings() -> None:
    """Put the options on their page; the host calls it before it builds the settings."""
    import gradio as gr

    options = {
        _PRESET: shared.OptionInfo(
            DEFAULT_PRESET, "Preset that the tab and the API begin with", gr.Dropdown,
            {"choices": list(PRESETS)}, section=_SECTION,
        ).needs_reload_ui(),
        _FOLDER: shared.OptionInfo(
            "", "Folder below models/Lora for new LoRAs", section=_SECTION,
        ).info("a name such as unlearn; empty: models/Lora itself"),
        _MEMORY: shared.OptionInfo(
            0, "Memory limit of a run in GB", gr.Slider,
            {"minimum": 0, "maximum": 80, "step": 1}, section=_SECTION,
        ).info("GPU memory of the WebUI with everything it holds; 0: none"),
    }  # fmt: skip
    for name, option in options.items():
        shared.opts.add_option(name, option)


def default_preset() -> str:
    """The preset to begin with; the engine's where the setting names none."""
    name = str(_value(_PRESET, DEFAULT_PRESET))
    return name if name in PRESETS else DEFAULT_PRESET


def subfolder() -> PurePosixPath:
    """Where below models/Lora files go: safe names only, so that it can't lead out of there."""
    parts = str(_value(_FOLDER, "")).replace("\\", "/").split("/")
    try:
        return PurePosixPath(*(safe_file_name(part) for part in parts if part.strip(" .")))
    except BadConcept:
        return PurePosixPath()


def memory_limit() -> float:
    """GB of GPU memory that a run may see in use; 0 for no limit."""
    return max(0.0, float(_value(_MEMORY, 0) or 0))


def clip_skip() -> int:
    """The user's Clip skip; 1 is none."""
    return int(_value("CLIP_stop_at_last_layers", 1))


def skips_in_first_of_two() -> bool:
    """Whether AUTOMATIC1111 lets Clip skip count for SDXL's first text encoder."""
    return bool(_value("sdxl_clip_l_skip", False))


def _value(name: str, default: Any) -> Any:
    # Without its page (--nowebui) the host does not know the option.
    return getattr(shared.opts, name, default)
