"""What scripts register with the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

callbacks: dict[str, list[Callable[..., Any]]] = {
    "ui_settings": [], "ui_tabs": [], "app_started": [], "script_unloaded": [],
}  # fmt: skip


def on_ui_settings(callback: Callable[..., Any]) -> None:
    callbacks["ui_settings"].append(callback)


def on_ui_tabs(callback: Callable[..., Any]) -> None:
    callbacks["ui_tabs"].append(callback)


def on_app_started(callback: Callable[..., Any]) -> None:
    callbacks["app_started"].append(callback)


def on_script_unloaded(callback: Callable[..., Any]) -> None:
    callbacks["script_unloaded"].append(callback)


def clear() -> None:
    """Before scripts are loaded again."""
    for listed in callbacks.values():
        listed.clear()
