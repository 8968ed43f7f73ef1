"""Where ComfyUI keeps LoRAs and embeddings."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..unlearn_core.errors import BadFile


def lora_names() -> list[str]:
    """Relative names of every LoRA that the loaders offer."""
    return list(folder_paths.get_filename_list("loras"))


def lora_path(name: str) -> Path:
    """Where a LoRA of that relative name lies; raises BadFile if it is gone."""
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise BadFile(f"There is no LoRA {name!r} any more: refresh the node (R) and choose again.")
    return Path(path)


def output_folder(kind: str) -> Path:
    """The first folder of "loras" or "embeddings", where new files go."""
    return Path(folder_paths.get_folder_paths(kind)[0])
