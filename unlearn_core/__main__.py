"""The headless door: `python -m unlearn_core forget|merge|invert|generate|measure|demo`.

Only the standard library is imported before `main`, so that Ctrl-C ends every moment in one line.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

STOPPED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 1 after an error, or 130 after Ctrl-C (argparse exits with 2)."""
    from .console import shown

    try:
        from .run_command import run_command  # imports torch, which takes seconds

        return run_command(arguments)
    except KeyboardInterrupt:
        shown(sys.stderr).say("error: Stopped at once, as you asked.")
        return STOPPED


def _start() -> int:
    """The whole process."""
    from .console import take_over_streams

    take_over_streams()
    return main()


if __name__ == "__main__" and __package__:
    sys.exit(_start())
elif __name__ == "__main__":  # `python /any/where/unlearn_core`: start again as `-m` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    runpy.run_module(Path(__file__).resolve().parent.name, run_name="__main__", alter_sys=True)
