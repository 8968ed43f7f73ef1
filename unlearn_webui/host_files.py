"""Where the WebUI keeps LoRAs, embeddings and uploads, and how it learns of new files."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from modules import sd_hijack, shared

from unlearn_core.errors import BadFile

from .host_settings import subfolder

_LORA_ENDINGS = (".safetensors", ".pt", ".ckpt")


def lora_folder() -> Path:
    """Where new LoRAs go."""
    return _lora_root() / subfolder()


def lora_names() -> frozenset[str]:
    """Names of all LoRAs, in lower case; the host knows them without their folders."""
    root = _lora_root()
    files = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    return frozenset(file.stem.lower() for file in files if file.suffix.lower() in _LORA_ENDINGS)


def embeddings_folder() -> Path:
    """Where embeddings go."""
    return Path(shared.cmd_opts.embeddings_dir)


def reload_loras() -> None:
    """Let the host see new LoRA files, and forget what it remembers of files of these names."""
    networks: Any = sys.modules.get("networks")
    if hasattr(networks, "list_available_networks"):
        networks.list_available_networks()
    if hasattr(networks, "load_lora_state_dict"):  # Forge remembers a file by its name
        networks.load_lora_state_dict.cache_clear()


def reload_embeddings(model: Any) -> None:
    """Let the host see new embeddings; `model` is its loaded one."""
    engine = getattr(model, "text_processing_engine", None)
    if engine is not None:
        engine.embeddings.load_textual_inversion_embeddings()
        return
    database = getattr(getattr(sd_hijack, "model_hijack", None), "embedding_db", None)
    if database is not None:
        database.load_textual_inversion_embeddings(force_reload=True)


def uploaded(file: Any) -> Path:
    """The path of a file that was uploaded through the page.

    Raises BadFile for one outside of the host's upload folders, which no upload makes.
    """
    path = Path(getattr(file, "name", file)).resolve()
    if not any(folder.resolve() in path.parents for folder in _upload_folders()):
        raise BadFile(f"{path.name} was not uploaded here: drop the pictures into the field.")
    return path


def _lora_root() -> Path:
    stated = getattr(shared.cmd_opts, "lora_dir", None)
    if not stated:
        raise BadFile("The WebUI's built-in extension Lora is off: turn it on, it loads LoRAs.")
    return Path(stated)


def _upload_folders() -> list[Path]:
    stated = (getattr(shared.opts, "temp_dir", ""), os.environ.get("GRADIO_TEMP_DIR"))
    own = Path(tempfile.gettempdir()) / "gradio"
    return [*(Path(folder) for folder in stated if folder), own]
