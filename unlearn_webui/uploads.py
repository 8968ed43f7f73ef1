"""Pictures that a user sends, from files of the page or as base64 over the API. Never kept."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from unlearn_core.errors import BadConcept, BadFile
from unlearn_core.pictures import MOST_PICTURES, MOST_PIXELS, fit_to_square, to_tensor

MOST_BYTES = 20 * 2**20
"""Of one picture's file."""
_LARGEST_EDGE = 1024
"""Above SD2's 768; a larger picture is cropped and reduced at once, so that 64 fit into memory."""


def pictures_from_files(paths: Sequence[Path]) -> tuple[Tensor, ...]:
    """Each (3, h, w) float32 in [-1, 1]; raises BadConcept for too many, BadFile for a bad one."""
    _check_count(len(paths))
    return tuple(_picture_from_file(path) for path in paths)


def pictures_from_base64(texts: object) -> tuple[Tensor, ...]:
    """As `pictures_from_files`, from a JSON list of base64 strings (or data: URLs)."""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadConcept("pictures must be a list of strings, each a picture's file in base64.")
    _check_count(len(texts))
    return tuple(_picture_from_text(text, f"Picture {i}") for i, text in enumerate(texts, start=1))


def _check_count(count: int) -> None:
    if count > MOST_PICTURES:
        raise BadConcept(f"{count} pictures are too many; give {MOST_PICTURES} at most.")


def _picture_from_file(path: Path) -> Tensor:
    try:
        _check_size(path.stat().st_size, path.name)
        return _decode(path.read_bytes(), path.name)
    except OSError as error:
        raise BadFile(f"{path.name} can't be read: {error.strerror}.") from error


def _picture_from_text(text: str, label: str) -> Tensor:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    _check_size(len(text) * 3 // 4, label)
    try:
        return _decode(base64.b64decode(text, validate=True), label)
    except binascii.Error as error:
        raise BadFile(f"{label} is not base64: send the picture's file itself.") from error


def _check_size(size: int, label: str) -> None:
    if size > MOST_BYTES:
        raise BadFile(
            f"{label} has {size / 2**20:.0f} MB; at most {MOST_BYTES // 2**20} MB are read. Make "
            "it smaller."
        )


def _decode(content: bytes, label: str) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise BadFile(
                        f"{label} is {image.width}x{image.height}; at most "
                        f"{MOST_PIXELS // 1_000_000} megapixels are read. Make it smaller."
                    )
                pixels = to_tensor(ImageOps.exif_transpose(image) or image)
    except (UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise BadFile(f"{label} can't be read as a picture.") from error
    except OSError as error:  # a file that is cut off
        raise BadFile(f"{label} can't be read as a picture: {error}") from error
    height, width = pixels.shape[1:]
    if height * width > _LARGEST_EDGE**2:
        return fit_to_square((pixels,), min(height, width, _LARGEST_EDGE))[0]
    return pixels
