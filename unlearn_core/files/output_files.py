"""Checks, before any work, that results can be written where the user wants them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..errors import BadFile
from .input_files import is_folder
from .pictures import to_image
from .temporary_files import remove_stale


def check_tensor_file(path: Path) -> None:
    """Raise BadFile unless a .safetensors file can be written there; writes nothing."""
    if path.suffix != ".safetensors":
        raise BadFile(f"{path.name or path}: the file's name must end in .safetensors.")
    check_letters(path)
    check_file(path)


def check_letters(path: Path) -> None:
    """Raise BadFile for a path that is no UTF-8: safetensors opens no file there."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise BadFile(
            f"{path} is not UTF-8, and no program could load a LoRA or embedding from there: "
            "choose another name."
        ) from error


def check_file(path: Path) -> None:
    """Raise BadFile unless a file can be written there, its folder made first; writes nothing."""
    check_writable(path.parent)
    status = _status(path)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise BadFile(f"{path} is a folder: give the name of a file.")
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise BadFile(f"{path} is no regular file but a device, a pipe or a socket.")
    if status is None and path.is_symlink():
        raise BadFile(f"{path} is a link to a file that is not there: remove the link.")


def check_writable(folder: Path) -> None:
    """Raise BadFile unless files can be put there, making the folder first; leaves nothing."""
    existing = folder.absolute()
    while (status := _status(existing)) is None:
        if existing.is_symlink():
            raise BadFile(f"{existing} is a link to what is not there: choose another folder.")
        existing = existing.parent
    if not stat.S_ISDIR(status.st_mode):
        raise BadFile(f"{existing} is a file, so it can't hold the results: choose a folder.")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise BadFile(
            f"Nothing can be written in {folder} ({error.strerror}): choose another folder."
        ) from error


def check_apart(
    files: Sequence[Path], inputs: Sequence[Path], model: Path, folders: Sequence[Path] = ()
) -> None:
    """Raise BadFile if a result is, by any path, an input, of the model, or another result.

    `files` and `folders` will be written, `inputs` are files and folders that are read. Links of
    both kinds are seen through, and so are names that only some systems tell apart.
    """
    home = _real(model)
    for folder in folders:
        if _real(folder) == home.parent or _keys(folder) & _keys(*inputs):
            raise BadFile(
                f"{folder} holds what this command reads: choose another folder for the results."
            )
    for path in (*folders, *files):
        if home in (_real(path), *_real(path).parents):
            raise BadFile(
                f"{path} is the model or lies in its folder, and the model is only read: choose "
                "another place."
            )
    read = _keys(*_with_files(inputs), *_with_files((model,)))
    written: dict[str, Path] = {}
    for path in files:
        if _keys(path) & read:
            raise BadFile(
                f"{path} would be replaced, and this command reads it: choose another name for "
                "the result."
            )
        twin = written.setdefault(unicodedata.normalize("NFC", str(_real(path))).casefold(), path)
        if twin is not path:
            raise BadFile(f"{twin} and {path} are the same file: give each result its own.")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and remove what a killed run has left; raises BadFile."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise BadFile(f"The folder {folder} can't be made: {_reason(error)}.") from error
    remove_stale(folder)


def remove_file(path: Path) -> None:
    """Remove a file if it is there; raises BadFile."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise BadFile(f"{path} can't be removed: {error.strerror}.") from error


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


def png_bytes(
    picture: Tensor | Image.Image, optimize: bool = False, texts: Mapping[str, str] | None = None
) -> bytes:
    """A picture, as a tensor (3, h, w) float32 in [-1, 1], as a PNG file.

    `optimize` takes longer for a smaller file; `texts` go into it by their keywords.
    """
    notes = PngInfo()
    for keyword, text in (texts or {}).items():
        notes.add_text(keyword, text)
    image = to_image(picture) if isinstance(picture, Tensor) else picture
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=optimize, pnginfo=notes)
    return buffer.getvalue()


def _status(path: Path) -> os.stat_result | None:
    """None if there is nothing; raises BadFile if the path can't be looked at."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # too long, a loop of links, no permission; a NUL
        raise BadFile(f"{str(path)[:200]} can't be written: {_reason(error)}.") from error


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:  # a NUL
        raise BadFile(f"{path} is no path: {error}.") from error


def _with_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The paths, and of folders also the files in them and in their folders."""
    for path in paths:
        yield path
        if is_folder(path):
            yield from (*path.glob("*"), *path.glob("*/*"))


def _keys(*paths: Path) -> set[object]:
    """What tells files apart: the real path, and the number in the file system where it has one."""
    keys: set[object] = set()
    for path in paths:
        keys.add(_real(path))
        with contextlib.suppress(OSError):  # nothing is there
            status = path.stat()
            if status.st_ino:
                keys.add((status.st_dev, status.st_ino))
    return keys
