"""The headless door: `python -m unlearn_core forget|invert|generate|measure|demo`.

Only the standard library is imported before `main`: Ctrl-C must not need torch to be there.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

STOPPED = 130
_LINE = "error: Stopped at once, as you asked."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 1 after an error, or 130 after Ctrl-C (argparse exits with 2)."""
    from .cli.terminal import shown

    try:
        from .cli.main import run_command  # imports torch, which takes seconds

        return run_command(arguments)
    except KeyboardInterrupt:
        shown(sys.stderr).say(_LINE)
        return STOPPED


def _start() -> int:
    """The whole process."""
    takes_ctrl_c = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if takes_ctrl_c:
        signal.signal(signal.SIGINT, _leave)
    from .cli.terminal import take_over_streams

    take_over_streams()
    try:
        return main()
    finally:
        if takes_ctrl_c:  # all is done, and what is left is Python's own
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once, while torch is imported: it swallows a KeyboardInterrupt, and is broken then."""
    with contextlib.suppress(OSError):
        os.write(2, f"{_LINE}\n".encode())
    os._exit(STOPPED)


if __name__ == "__main__" and __package__:
    sys.exit(_start())
elif __name__ == "__main__":  # `python /any/where/unlearn_core`: start again as `-m` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    runpy.run_module(Path(__file__).resolve().parent.name, run_name="__main__", alter_sys=True)
