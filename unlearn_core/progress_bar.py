"""The command line's monitor: one tqdm bar per stage on stderr, and Ctrl-C as a wish to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, TextIO

from .console import shown
from .lent_model import Progress

_HINT = b"\nstopping after this step; Ctrl-C again stops at once\n"
_SECONDS_BETWEEN_LINES = 5.0
"""In a log file every refresh is a new line, so there are few of them."""


class ProgressBar:
    """A RunMonitor for a terminal; use it as a context manager.

    Inside, the first Ctrl-C makes `should_stop` true, so that the engine ends its step and raises
    Cancelled; the second one raises KeyboardInterrupt at once. The handler that was there before
    comes back on leaving. In another thread than the main one signals are left alone.
    """

    shows_pictures = False

    def __init__(self, stream: TextIO | None = None) -> None:
        """Show bars on `stream`; None means stderr."""
        self._stream = shown(stream if stream is not None else sys.stderr)
        self._bar: Any = None
        self._stage: str | None = None
        self._asked = False
        self._handler_before: Any = None
        self._handles_signals = False

    def __enter__(self) -> ProgressBar:
        """Take over Ctrl-C."""
        if threading.current_thread() is threading.main_thread():
            self._handler_before = signal.signal(signal.SIGINT, self._on_interrupt)
            self._handles_signals = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the bar that is left and give Ctrl-C back."""
        if self._handles_signals:
            signal.signal(signal.SIGINT, self._handler_before or signal.SIG_DFL)
            self._handles_signals = False
        self._close()

    def report(self, progress: Progress) -> None:
        """Move the stage's bar to `progress.step`; a new stage gets a new bar."""
        if self._bar is None or progress.stage != self._stage or progress.step < self._bar.n:
            self._open(progress)
        if progress.loss is not None:
            self._bar.set_postfix(loss=f"{progress.loss:.4g}", refresh=False)
        self._bar.update(progress.step - self._bar.n)
        if progress.step >= progress.total:
            self._close()

    def should_stop(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._asked

    def _open(self, progress: Progress) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]

        self._close()
        self._stage = progress.stage
        pause = 0.1 if self._stream.isatty() else _SECONDS_BETWEEN_LINES
        self._bar = tqdm(
            total=progress.total,
            desc=progress.stage,
            file=self._stream,
            mininterval=pause,
            dynamic_ncols=True,
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        # Not through the stream's buffer: the signal may have come in the middle of a write to it.
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it may have no number
            os.write(self._stream.fileno(), _HINT)
