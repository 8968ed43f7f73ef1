"""What a running job tells its host, and how its user stops it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .errors import Cancelled

FINDING_THE_WORD = "finding the word"
COPYING_THE_ENCODER = "copying the text encoder"
CHOOSING_WORDS = "choosing words"
CHOOSING_THE_STAND_IN = "choosing the stand-in"
READING_PICTURES = "reading the pictures"
LEARNING = "learning the concept"
PREPARING = "preparing the prompts"
LEAST_SQUARES = "least squares"
FORGETTING = "forgetting"
DRAWING = "drawing"
DRAWING_BEFORE_AND_AFTER = "drawing before and after"
DRAWING_THE_STRENGTH_CURVE = "drawing the strength curve"

PREVIEWS = 4
"""Pictures drawn during a stage, so that the user sees the concept come or go."""


@dataclass(frozen=True)
class Progress:
    """One report of a running job."""

    stage: str
    """What is being done, in words for the user: LEARNING, FORGETTING, ..."""
    step: int = 0
    """Steps done in this stage, 0 to `total`."""
    total: int = 0
    """0 where the stage has begun and its steps are not counted."""
    loss: float | None = None
    seconds_left: float | None = None
    """Estimated seconds to the end of this stage; None before it can be told."""
    preview: Tensor | None = None
    """(3, height, width) float32 in [0, 1], on the CPU."""

    def in_words(self) -> str:
        """On one line: stage, step, and what is known of loss and time left."""
        words = self.stage
        if self.total:
            words += f": {self.step} of {self.total}"
        if self.loss is not None:
            words += f", loss {self.loss:.3g}"
        if self.seconds_left is not None and self.step < self.total:
            words += f", {time_in_words(self.seconds_left)} left"
        return words


def time_in_words(seconds: float) -> str:
    """As "45 s", "3 min 20 s" or "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 10:
        return f"{minutes} min {rest} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


class RunMonitor(Protocol):
    """Where a host shows progress, and where its user asks to stop."""

    shows_pictures: bool
    """Whether previews can be seen; where not, none are drawn."""

    def report(self, progress: Progress) -> None:
        """Show the progress; called when a stage begins, and about once a step."""

    def should_stop(self) -> bool:
        """Whether the user wants to stop; asked once a step."""


class StepReports:
    """Reports the steps of one stage, with the time that is left and a few previews."""

    def __init__(self, monitor: RunMonitor, stage: str, total: int) -> None:
        """The first step begins now."""
        self._monitor, self._stage, self._total = monitor, stage, total
        self._asked = total
        self._step = 0
        self._since, self._spent = time.monotonic(), 0.0

    def go_on(self) -> None:
        """The next step begins now: what came before it, such as preparing it, is no step's."""
        self._since = time.monotonic()

    def leave_out(self, steps: int) -> None:
        """So many of the steps that were asked for are not taken."""
        self._total -= steps

    def one_more(self, loss: float, preview: Callable[[], Tensor]) -> None:
        """Report the next step; `preview` draws what is reported, PREVIEWS times at most."""
        now = time.monotonic()
        self._spent += now - self._since
        self._since = now
        self._step += 1
        is_last = self._step == self._total < self._asked
        is_due = is_last or self._step % max(1, self._asked // PREVIEWS) == 0
        shown = preview() if is_due and self._monitor.shows_pictures else None
        left = self._spent / self._step * (self._total - self._step)
        self._monitor.report(Progress(self._stage, self._step, self._total, loss, left, shown))


class StepCounter:
    """Reports one stage whose steps are counted here."""

    def __init__(self, monitor: RunMonitor, stage: str, total: int) -> None:
        """Nothing is done yet."""
        self._monitor, self._stage, self._total = monitor, stage, total
        self._done = 0

    def one_more(self) -> None:
        """Report the next step."""
        self._done += 1
        self._monitor.report(Progress(self._stage, self._done, self._total))


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
