"""The thin host in this process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

THIN = "tests/hosts/webui_thin"
FRESH = ("modules", "networks", "backend", "unlearn_webui")
"""Packages whose state must not go from one test to the next."""


@pytest.fixture
def thin(root: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The thin host's modules, fresh, and the extension's files that name them."""
    _drop_fresh()
    monkeypatch.syspath_prepend(str(root / THIN))
    shared = importlib.import_module("modules.shared")
    shared.cmd_opts.lora_dir = str(tmp_path / "Lora")
    shared.cmd_opts.embeddings_dir = str(tmp_path / "embeddings")
    importlib.import_module("networks")
    importlib.import_module("backend.memory_management")
    importlib.import_module("modules.sd_hijack")
    yield SimpleNamespace(
        shared=shared,
        sd_models=importlib.import_module("modules.sd_models"),
        devices=importlib.import_module("modules.devices"),
        sd_unet=importlib.import_module("modules.sd_unet"),
        networks=sys.modules["networks"],
        host=importlib.import_module("unlearn_webui.host.checkpoint"),
        host_run=importlib.import_module("unlearn_webui.host.run"),
        run=importlib.import_module("unlearn_webui.run"),
        job=importlib.import_module("unlearn_webui.job"),
        request=importlib.import_module("unlearn_webui.request"),
    )
    _drop_fresh()


def _drop_fresh() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in FRESH]:
        del sys.modules[name]
