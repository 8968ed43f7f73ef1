"""Where the WebUI keeps LoRAs, embeddings and uploads, and how it learns of new files."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from modules import shared

from unlearn_core.errors import BadFile

from .settings import subfolder

_LORA_ENDINGS = (".safetensors", ".pt", ".ckpt")
_ENGINES = ("", "_l", "_g")
"""Of the names of what turns prompts into tokens in Forge: one, or two for SDXL."""


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
    read = getattr(networks, "load_lora_state_dict", None)
    clear = getattr(read, "cache_clear", None)  # Forge remembers a file by its name, Forge Neo not
    if clear is not None:
        clear()


def reload_embeddings(model: Any) -> None:
    """Let the host see new embeddings; `model` is its loaded one."""
    found = [getattr(model, f"text_processing_engine{tail}", None) for tail in _ENGINES]
    engines = [engine for engine in found if engine is not None]
    for engine in engines:
        engine.embeddings.load_textual_inversion_embeddings()
    if engines:
        return
    sd_hijack = sys.modules.get("modules.sd_hijack")  # Forge Neo has none
    database = getattr(getattr(sd_hijack, "model_hijack", None), "embedding_db", None)
    if database is not None:
        database.load_textual_inversion_embeddings(force_reload=True)


def name_uploads_only(field: Any) -> Any:
    """Make a gr.File for several files give the names that the page sends, for `uploaded`.

    By itself gradio first copies whatever file of the machine or of the network a request names
    into its upload folder, where it passes for an upload.
    """
    field.preprocess = _named_files
    field.async_move_resource_to_block_cache = _left_where_it_is  # gradio 4
    return field


def uploaded(file: str) -> Path:
    """The path of a file that was uploaded through the page.

    Raises BadFile for one that lies, links followed, outside of the host's upload folder.
    """
    try:
        path = Path(file).resolve()
        inside = _upload_folder().resolve() in path.parents
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, a circle of links
        inside = False
    if not inside:
        name = Path(file).name[:100]
        raise BadFile(f"{name!r} was not uploaded here: drop the pictures into the field.")
    return path


def _lora_root() -> Path:
    stated = getattr(shared.cmd_opts, "lora_dir", None)
    if not stated:
        raise BadFile("The WebUI's built-in extension Lora is off: turn it on, it loads LoRAs.")
    return Path(stated)


def _upload_folder() -> Path:
    """As gradio finds it."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")


def _named_files(payload: Any) -> list[str]:
    """From gradio 3's list of dictionaries, or gradio 4's ListFiles."""
    files = getattr(payload, "root", payload) or []
    return [str(file["name"] if isinstance(file, dict) else file.path) for file in files]


async def _left_where_it_is(path: Any) -> Any:
    return path
