"""What the terminal shows: streams of any encoding, and a progress bar."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from ..progress import Progress  # imports torch, which takes seconds

_HINT = b"\nstopping after this step; Ctrl-C again stops at once\n"
_SECONDS_BETWEEN_LINES = 5.0
"""In a log file every refresh is a new line, so there are few of them."""


class Shown:
    """A text stream that takes every character, and goes quiet when nobody reads it any more.

    The reader of a pipe may leave, a disk may be full, a terminal may close.
    """

    def __init__(
        self, stream: TextIO | None, on_loss: Callable[[Exception], None] | None = None
    ) -> None:
        """Show on `stream`, None being nowhere; `on_loss` gets the error that ends it."""
        self._stream = stream
        self._on_loss = on_loss

    def write(self, text: str) -> int:
        """Write what the stream's encoding has, and the rest as backslashed numbers."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._try("write", text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Bring on its way what was written."""
        self._try("flush")

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return bool(self._try("isatty"))

    def say(self, line: str) -> None:
        """Write a line and see it off."""
        self.write(f"{line}\n")
        self.flush()

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's own."""
        return getattr(self._stream, name)

    def _try(self, method: str, *arguments: str) -> object:
        stream = self._stream
        if stream is None:
            return None
        try:
            return getattr(stream, method)(*arguments)
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and not stream.closed:
                raise
            self._stream = None
            if self._on_loss is not None:
                self._on_loss(error)
            return None


def shown(stream: TextIO | None) -> Shown:
    """`stream` as one that stops no work, if it is not yet."""
    return stream if isinstance(stream, Shown) else Shown(stream)


def take_over_streams() -> None:
    """Make stdout and stderr of this process such streams, also where it was started without.

    A number below 3 that is free would go to the next file that is opened, and a library that
    writes to "stdout" would write into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    errors = shown(sys.stderr)
    output = Shown(sys.stdout, lambda error: _tell_loss(error, errors))
    sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, errors)


def _tell_loss(error: Exception, errors: Shown) -> None:
    if not isinstance(error, BrokenPipeError):  # a reader that leaves, such as `head`, knows it
        errors.say(f"note: the output can't be shown ({error}); the work goes on.")


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
        """Move the stage's bar to `progress.step`; a new stage gets a new bar.

        Where no bar is open, a stage whose steps are not counted is named until the next report.
        """
        counted = self._bar is not None and bool(self._bar.total)
        if not progress.total:
            if not counted and self._stream.isatty():
                self._open(progress, leave=False, bar_format="{desc}")
            return
        if not counted or progress.stage != self._stage or progress.step < self._bar.n:
            self._open(progress)
        if progress.loss is not None:
            self._bar.set_postfix(loss=f"{progress.loss:.4g}", refresh=False)
        self._bar.total = progress.total  # fewer once a loop is done early
        self._bar.update(progress.step - self._bar.n)
        if progress.step >= progress.total:
            self._close()

    def should_stop(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._asked

    def _open(self, progress: Progress, **look: Any) -> None:
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
            **look,
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
