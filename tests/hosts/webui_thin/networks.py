"""The host's Lora extension under its bare name: which LoRAs there are, which are active."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modules import shared

available_networks: dict[str, Path] = {}
loaded_networks: list[str] = []


def list_available_networks() -> None:
    available_networks.clear()
    for file in sorted(Path(shared.cmd_opts.lora_dir).rglob("*.safetensors")):
        available_networks[file.stem] = file


def load_networks(names: Sequence[str], te: Sequence[float], unet: Sequence[float]) -> None:
    """As in Forge every list must be there; weights follow when a part is next used."""
    assert len(names) == len(te) == len(unet)
    loaded_networks[:] = names
