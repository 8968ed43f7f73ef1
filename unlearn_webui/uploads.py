"""Pictures that a user sends, from files of the page or as base64 over the API. Never kept."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from unlearn_core.errors import BadConcept, BadFile
from unlearn_core.files.input_files import is_file
from unlearn_core.files.pictures import MOST_PICTURES, outline, picture_from_bytes

MOST_BYTES = 20 * 2**20
"""Of one picture's file."""
_DECODING = threading.Lock()
"""One picture at a time: until it is reduced it may take several hundred megabytes."""
_BLANKS = dict.fromkeys(map(ord, " \t\r\n"))


def pictures_from_files(paths: Sequence[Path], used: bool = True) -> tuple[Tensor, ...]:
    """Each (3, h, w) float32 in [-1, 1]; with `used` False each is read, its outline is kept.

    Raises BadConcept for too many, BadFile for a bad one.
    """
    check_count(len(paths))
    return _decoded(((path.name, _read(path)) for path in paths), used)


def pictures_from_base64(texts: object, used: bool = True) -> tuple[Tensor, ...]:
    """As `pictures_from_files`, from a list as `check_texts` wants it."""
    named = enumerate(check_texts(texts), start=1)
    return _decoded(
        ((f"Picture {i}", _from_base64(text, f"Picture {i}")) for i, text in named), used
    )


def check_texts(texts: object) -> list[str]:
    """The list, if it holds base64 strings or data: URLs; raises BadConcept, decodes nothing."""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadConcept("pictures must be a list of strings, each a picture's file in base64.")
    check_count(len(texts))
    return texts


def check_count(count: int) -> None:
    """Raise BadConcept for more pictures than a run takes."""
    if count > MOST_PICTURES:
        raise BadConcept(f"{count} pictures are too many; give {MOST_PICTURES} at most.")


def _decoded(files: Iterable[tuple[str, bytes]], used: bool) -> tuple[Tensor, ...]:
    pictures = []
    for label, content in files:
        with _DECODING:
            picture = picture_from_bytes(content, label)
        pictures.append(picture if used else outline(picture))
    return tuple(pictures)


def _read(path: Path) -> bytes:
    if not is_file(path):
        raise BadFile(f"{path.name} can't be read: it is gone.")
    try:
        _check_size(path.stat().st_size, path.name)
        return path.read_bytes()
    except OSError as error:
        raise BadFile(f"{path.name} can't be read: {error.strerror}.") from error


def _from_base64(text: str, label: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    text = text.translate(_BLANKS).rstrip("=")  # lines may be wrapped and the padding left out
    _check_size(len(text) * 3 // 4, label)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:  # binascii.Error among them
        raise BadFile(f"{label} is not base64: send the picture's file itself.") from error


def _check_size(size: int, label: str) -> None:
    if size > MOST_BYTES:
        raise BadFile(
            f"{label} has {size / 2**20:.0f} MB; at most {MOST_BYTES // 2**20} MB are read. Make "
            "it smaller."
        )
