"""Where ComfyUI keeps LoRAs and embeddings, and what its pictures say of their workflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args

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


class WrittenFiles:
    """What was written since ComfyUI started, to notice that a file is not there any more."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._times: dict[Path, int | None] = {}
        self._changes = 0

    def note(self, path: Path) -> None:
        """Look after this file from now on."""
        self._times[path] = _time(path)

    def changes(self) -> int:
        """How often a file was found to be gone, or another one than was written."""
        changed = [path for path, time in self._times.items() if _time(path) != time]
        for path in changed:
            del self._times[path]
        self._changes += bool(changed)
        return self._changes


def _time(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def workflow_texts(hidden: Any) -> dict[str, str]:
    """For a PNG that opens the workflow when it is dropped on the page, as Save Image writes it."""
    if args.disable_metadata:
        return {}
    known = {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    return {keyword: json.dumps(value) for keyword, value in known.items() if value is not None}


def output_folder(kind: str) -> Path:
    """The first folder of "loras" or "embeddings", where new files go."""
    return Path(folder_paths.get_folder_paths(kind)[0])
