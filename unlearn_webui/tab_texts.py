"""What the tab says, as HTML; every text from outside is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from unlearn_core.settings import bounds_of, help_of

from .host.chosen_checkpoint import Checkpoint


def checkpoint_html(checkpoint: Checkpoint) -> str:
    """Which checkpoint a run would use, and at once whether it can."""
    name = f"<b>{escape(checkpoint.name)}</b>"
    if not checkpoint.name:
        return _line("No checkpoint is chosen: choose one at the top of the page.", "wait")
    if not checkpoint.loaded:
        return _line(f"{name} is not loaded yet. Forget loads and checks it.", "wait")
    if checkpoint.refusal:
        return _line(f"{name} can't be used. {escape(checkpoint.refusal)}", "bad")
    notes = "".join(f"<br>{escape(note)}" for note in checkpoint.notes)
    return _line(f"{name} can be used: it is {escape(checkpoint.family)}.{notes}", "good")


def lines_html(lines: Sequence[str]) -> str:
    """One paragraph for each line."""
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def error_html(message: str) -> str:
    """An error as the host shows its own."""
    return f"<div class='error'>{escape(message)}</div>"


def number_info(name: str) -> str:
    """The explanation below a field that may stay empty, with the engine's bounds."""
    low, high = bounds_of(name)
    return f"{help_of(name)} {low:.10g} to {high:.10g}; empty: the preset's."


def layers_info() -> str:
    """The explanation of the field for layers."""
    return f"{help_of('layers')} Empty: the preset's."


def _line(html: str, state: str) -> str:
    return f"<div class='unlearn-checkpoint unlearn-{state}'>{html}</div>"
