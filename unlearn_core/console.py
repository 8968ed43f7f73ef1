"""What is said at the command line; that it can't be shown there stops no work."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast


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
