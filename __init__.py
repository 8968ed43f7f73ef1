"""ComfyUI's door into SD Unlearn; nothing is imported before the host asks for the nodes."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """Called once by ComfyUI at its start."""
    from .nodes.extension import UnlearnExtension

    return UnlearnExtension()
