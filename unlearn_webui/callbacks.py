"""What the WebUI calls: to build the tab and the settings, to start the API, to unload."""

from __future__ import annotations

import sys
from typing import Any

from fastapi import FastAPI
from modules import script_callbacks

from .api import add_routes
from .host.checkpoint import api_is_on
from .host.settings import add_settings
from .job import JOBS
from .tab import build_tab

TITLE, TAB_ID = "Unlearn", "unlearn"
_PACKAGES = ("unlearn_webui", "unlearn_core")


def register() -> None:
    """Register everything with the host."""
    script_callbacks.on_ui_settings(add_settings)
    script_callbacks.on_ui_tabs(_tabs)
    script_callbacks.on_app_started(_app_started)
    script_callbacks.on_script_unloaded(_unload)


def _tabs() -> list[tuple[Any, str, str]]:
    return [(build_tab(), TITLE, TAB_ID)]


def _app_started(_: Any, app: FastAPI) -> None:
    if api_is_on():
        add_routes(app)


def _unload() -> None:
    """Before Reload UI loads the scripts again: stop, and let new code be read."""
    JOBS.stop_all()
    for name in [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]:
        del sys.modules[name]
