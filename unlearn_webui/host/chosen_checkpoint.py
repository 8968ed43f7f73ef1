"""What can be said about the host's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Checkpoint:
    """What can be said about the host's checkpoint before a run."""

    name: str
    """Empty where none is chosen."""
    family: str = ""
    """What kind of model it is, where it can be used."""
    refusal: str = ""
    """Why it can't be used; empty where it can."""
    notes: tuple[str, ...] = ()
    """What the user should know before."""
    loaded: bool = True
    """False while the host has yet to load it; then it can't be judged."""
