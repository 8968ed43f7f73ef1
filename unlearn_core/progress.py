"""What a running job tells its host, and how its user stops it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .errors import Cancelled

PREVIEWS = 4
"""Pictures drawn during a stage, so that the user sees the concept come or go."""


@dataclass(frozen=True)
class Progress:
    """One report of a running job."""

    stage: str
    """What is being done, in words for the user: "learning the concept", "forgetting"."""
    step: int
    """Steps done in this stage, 1 to `total`."""
    total: int
    loss: float | None = None
    seconds_left: float | None = None
    """Estimated seconds to the end of this stage; None before it can be told."""
    preview: Tensor | None = None
    """(3, height, width) float32 in [0, 1], on the CPU."""

    def in_words(self) -> str:
        """On one line: stage, step, and what is known of loss and time left."""
        words = f"{self.stage}: {self.step} of {self.total}"
        if self.loss is not None:
            words += f", loss {self.loss:.3g}"
        if self.seconds_left is not None:
            words += f", {self.seconds_left:.0f} s left"
        return words


class RunMonitor(Protocol):
    """Where a host shows progress, and where its user asks to stop."""

    shows_pictures: bool
    """Whether previews can be seen; where not, none are drawn."""

    def report(self, progress: Progress) -> None:
        """Show the progress; called about once a step."""

    def should_stop(self) -> bool:
        """Whether the user wants to stop; asked once a step."""


def preview_is_due(monitor: RunMonitor, step: int, steps: int) -> bool:
    """Whether the report of `step` (1 to `steps`) should carry a preview."""
    return monitor.shows_pictures and step % max(1, steps // PREVIEWS) == 0


class SilentMonitor:
    """A monitor that shows nothing and never stops."""

    shows_pictures = False

    def report(self, progress: Progress) -> None:
        """Show nothing."""

    def should_stop(self) -> bool:
        """Never."""
        return False


def stop_if_asked(monitor: RunMonitor) -> None:
    """Raise Cancelled if the user asked to stop."""
    if monitor.should_stop():
        raise Cancelled("Stopped as you asked; nothing was changed or written.")


PREPARING, LEAST_SQUARES = "preparing the prompts", "least squares"
