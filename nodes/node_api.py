"""ComfyUI's node API, and what only newer hosts know of it."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

try:
    from comfy_api.v0_0_2 import ComfyExtension, io, ui
except ImportError:  # a host that has dropped this version, or never had it
    from comfy_api.latest import ComfyExtension, io, ui

__all__ = ["ADVANCED", "ComfyExtension", "io", "schema", "ui"]

ADVANCED: dict[str, Any] = (
    {"advanced": True} if "advanced" in inspect.signature(io.WidgetInput).parameters else {}
)
"""For an input that few need: folded away by hosts that can."""


def schema(search_aliases: list[str], **described: Any) -> Any:
    """An io.Schema; hosts that search for more than titles find it by `search_aliases` too."""
    if "search_aliases" in {field.name for field in dataclasses.fields(io.Schema)}:
        described["search_aliases"] = search_aliases
    return io.Schema(**described)
