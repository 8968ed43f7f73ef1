"""Checks, before any work, that results can be written where the user wants them."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from .embedding_file import save_embedding
from .errors import BadFile
from .pictures import to_image


def check_tensor_file(path: Path) -> None:
    """Raise BadFile unless a .safetensors file can be written there; writes nothing."""
    if path.suffix != ".safetensors":
        raise BadFile(f"{path.name or path}: the file's name must end in .safetensors.")
    check_writable(path.parent)
    try:
        if path.is_dir():
            raise BadFile(f"{path} is a folder: give the name of a file.")
    except OSError as error:
        raise BadFile(f"{path} can't be written: {error.strerror}.") from error


def check_writable(folder: Path) -> None:
    """Raise BadFile unless files can be put there, making the folder first; leaves nothing."""
    try:
        existing = folder.absolute()
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            raise BadFile(f"{existing} is a file, so it can't hold the results: choose a folder.")
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise BadFile(
            f"Nothing can be written in {folder} ({error.strerror}): choose another folder."
        ) from error


def check_embedding_file(path: Path) -> None:
    """As `check_tensor_file`, and refuse what `save_embedding` would refuse after the training."""
    check_tensor_file(path)
    with tempfile.TemporaryDirectory() as folder:
        save_embedding(torch.zeros(1, 1), Path(folder) / path.name)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; raises BadFile."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFile(f"The folder {folder} can't be made: {error.strerror}.") from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Raise BadFile if another process of this user is inside with the same folder.

    The lock lies among the temporary files, and ends with the process, however that ends.
    """
    user = os.getuid() if hasattr(os, "getuid") else "own"  # on Windows the files are the user's
    place = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    lock = FileLock(Path(tempfile.gettempdir()) / f"sd-unlearn-{user}-{place[:16]}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BadFile(
            f"Another command is writing to {folder}: wait for its end, or choose another folder."
        ) from error
    except OSError as error:
        raise BadFile(f"{lock.lock_file} can't be written: {error.strerror}.") from error
    try:
        yield
    finally:
        lock.release()


def png_bytes(pixels: Tensor) -> bytes:
    """A picture (3, h, w) float32 in [-1, 1] as a PNG file."""
    buffer = io.BytesIO()
    to_image(pixels).save(buffer, "PNG")
    return buffer.getvalue()
