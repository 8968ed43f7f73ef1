"""ComfyUI's door into SD Unlearn; nothing is imported before the host asks for the nodes."""

from __future__ import annotations

import logging
from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """Called once by ComfyUI at its start."""
    from .nodes.extension import UnlearnExtension
    from .unlearn_core.lora.peft_package import what_peft_lacks

    lacks = what_peft_lacks()
    if lacks:
        logging.getLogger(__name__).warning("SD Unlearn: %s", lacks)
    return UnlearnExtension()
