"""ComfyUI's node API, and what only newer hosts know of it."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

try:
    from comfy_api.v0_0_2 import ComfyExtension, io, ui
except ImportError:  # a host that has dropped this version, or never had it
    from comfy_api.latest import ComfyExtension, io, ui

__all__ = ["ADVANCED", "ComfyExtension", "found_by", "io", "ui"]

ADVANCED: dict[str, Any] = (
    {"advanced": True} if "advanced" in inspect.signature(io.WidgetInput).parameters else {}
)
"""For an input that few need: folded away by hosts that can."""


def found_by(*words: str) -> dict[str, Any]:
    """For io.Schema: what else one may type to find the node, in hosts that search for that."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return {"search_aliases": list(words)} if "search_aliases" in known else {}
