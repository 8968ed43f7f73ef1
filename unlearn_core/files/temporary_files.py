"""Names for files that are being written, and the end of those that a killed run has left."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import uuid
from pathlib import Path

_NAME = re.compile(r"\.sd-unlearn-(?P<machine>[0-9a-f]{8}|any)-(?P<process>\d+)-[0-9a-f]{32}\.part")
_OLD = 24 * 3600.0
"""Seconds: no write takes so long, not even on a computer that slept meanwhile."""


def temporary_beside(path: Path) -> Path:
    """A name in the same folder that nobody has; it tells who writes there."""
    mark = f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex}"
    return path.with_name(f".sd-unlearn-{mark}.part")


def remove_stale(folder: Path) -> None:
    """Remove the temporary files of ours in a folder that nobody writes any more.

    Other processes and, in a network folder, other machines may be writing there. So a file goes
    only if the process in its name has ended on this very machine, or if it is a day older than
    what is made in the folder now, by the folder's own clock.
    """
    for path in folder.glob(".sd-unlearn-*.part"):
        name = _NAME.fullmatch(path.name)
        # What is gone meanwhile or can't be removed (another user's) is in nobody's way.
        with contextlib.suppress(OSError):
            if name and (_has_ended(name["machine"], int(name["process"])) or _is_old(path)):
                path.unlink()


def _machine() -> str:
    """Eight hex digits of this start of this machine and its set of process numbers, or "any".

    A host's name would not do: containers share it, and each has processes 1, 2, 3.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:  # not Linux
        return "any"
    return hashlib.sha256(f"{boot} {space}".encode()).hexdigest()[:8]


def _has_ended(machine: str, process: int) -> bool:
    if machine == "any" or machine != _machine():
        return False
    try:
        os.kill(process, 0)  # on Linux only: asks, and sends nothing
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's process; no number of a process
        return False
    return False


def _is_old(path: Path) -> bool:
    with tempfile.TemporaryFile(dir=path.parent) as new:
        return os.fstat(new.fileno()).st_mtime - path.stat().st_mtime > _OLD
