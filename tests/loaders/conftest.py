"""No loader asks for the network; single files of every family in small."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from unlearn_core.loaders import model_configs

_UNET = {
    "block_out_channels": [32] * 4, "norm_num_groups": 8, "cross_attention_dim": 64,
    "attention_head_dim": 1,
}  # fmt: skip
_VAE = {"block_out_channels": [32] * 4}
_TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 1, "projection_dim": 64,
}  # fmt: skip
_TEXT_2 = {**_TEXT, "hidden_size": 128, "num_attention_heads": 2, "projection_dim": 128}
_XL = {
    "block_out_channels": [32] * 3, "cross_attention_dim": 192,
    "transformer_layers_per_block": [1, 1, 2], "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 128 + 6 * 32,
}  # fmt: skip
TINY: dict[str, dict[str, dict[str, Any]]] = {
    "sd1": {"unet": _UNET, "vae": _VAE, "text_encoder": _TEXT},
    "sd2": {"unet": _UNET, "vae": _VAE, "text_encoder": _TEXT},
    "sdxl": {
        "unet": {**_UNET, **_XL}, "vae": _VAE, "text_encoder": _TEXT, "text_encoder_2": _TEXT_2,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def tiny_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """configs/ of the same structure in small, so that single files stay small."""
    folder = tmp_path / "configs"
    folder.mkdir()
    for key, changes in TINY.items():
        configs = json.loads((model_configs.CONFIGS_FOLDER / f"{key}.json").read_text("utf-8"))
        small = {part: {**config, **changes.get(part, {})} for part, config in configs.items()}
        (folder / f"{key}.json").write_text(json.dumps(small), "utf-8")
    monkeypatch.setattr(model_configs, "CONFIGS_FOLDER", folder)
    return folder
