"""One decoder for the pictures of all doors: whatever a file holds, it is read or refused.

A few bytes can unfold into gigabytes: sizes are looked at before anything is decoded, and a large
picture is cropped and reduced while it has one byte a channel.
"""

from __future__ import annotations

from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from ..errors import BadFile
from .png_texts import without_texts

LARGEST_EDGE = 1024
"""Above SD2's 768; what is larger is reduced at once, so that 64 pictures fit into memory."""
MOST_PIXELS = 64_000_000
MOST_HEAVY_PIXELS = 48_000_000
_HEAVY = ("WEBP", "AVIF", "HEIF")
"""Formats whose libraries hold further copies of the whole picture while they decode it."""
_LONGEST_EDGE = 65_535
"""Pillow keeps a pointer for each row."""
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", *_HEAVY)
"""What is read, as far as Pillow can. Of what else it opens, EPS would start a program."""
_BITS, _TILE_WIDTH, _TILE_LENGTH, _ORIENTATION = 258, 322, 323, 274
"""Tags of TIFF; EXIF has the last one too."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_RESIZABLE = ("L", "LA", "RGB", "RGBA", "CMYK", "I")
"""Modes that Pillow can average as they are."""


def endings() -> tuple[str, ...]:
    """How the names of files end that can be read here."""
    known = Image.registered_extensions().items()
    return tuple(sorted(ending for ending, form in known if form in _FORMATS))


def decode(file: BinaryIO, label: str) -> Image.Image:
    """The picture in a file, upright where its EXIF can be read; of an animation the first.

    One with an edge above LARGEST_EDGE comes as the square in its middle, reduced to that edge.
    Raises BadFile, which calls the picture `label`.
    """
    try:
        return _decode(file, label)
    except BadFile:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        bare = without_texts(file)
        if bare is None:
            raise _unreadable(label, error) from error
    return decode(bare, label)


def _decode(file: BinaryIO, label: str) -> Image.Image:
    Image.init()
    file.seek(0)
    with Image.open(file, formats=[form for form in _FORMATS if form in Image.OPEN]) as image:
        _check_size(image, label)
        _check_levels(image, label)
        if min(image.size) >= 2 * LARGEST_EDGE:
            image.draft(None, (LARGEST_EDGE, LARGEST_EDGE))  # of a JPEG only a part is decoded
        image.load()
        turn = _turn(image)
        seen = _reduced(image)
        return seen if turn is None else seen.transpose(turn)


def _check_size(image: Image.Image, label: str) -> None:
    width, height = image.size
    most = MOST_HEAVY_PIXELS if image.format in _HEAVY else MOST_PIXELS
    if width * height > most or max(width, height) > _LONGEST_EDGE:
        raise BadFile(
            f"{label} is {width}x{height}; at most {most // 1_000_000} megapixels of a "
            f"{image.format} file are read, {_LONGEST_EDGE} in a row. Make it smaller."
        )
    tags = _tags(image)
    if tags.get(_TILE_WIDTH, 1) * tags.get(_TILE_LENGTH, 1) > most:  # each is decoded whole
        raise BadFile(
            f"{label} has tiles of more than {most // 1_000_000} megapixels: save it anew."
        )


def _check_levels(image: Image.Image, label: str) -> None:
    """Nothing says what black and white are where levels have more than 16 bits."""
    if image.mode == "F" or (image.mode[0] == "I" and _tags(image).get(_BITS, (16,)) != (16,)):
        raise BadFile(f"{label} has levels of 32 bits: save it with 8 or 16 bits.")


def _tags(image: Image.Image) -> dict[int, Any]:
    """Those of a TIFF file."""
    tags: dict[int, Any] = getattr(image, "tag_v2", {})
    return tags


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # as the decoders do: a good picture with damaged EXIF stays as it lies
        return None


def _reduced(image: Image.Image) -> Image.Image:
    """The middle of a large picture; done before it is turned, on as few copies as can be."""
    if max(image.size) <= LARGEST_EDGE:
        return image
    edge = min(image.size)
    left, top = ((length - edge) // 2 for length in image.size)
    box = (left, top, left + edge, top + edge)
    if edge <= LARGEST_EDGE:
        return image.crop(box)
    if image.mode.startswith("I"):
        image = image.convert("I")
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode not in _RESIZABLE:
        image = image.convert("RGBA" if image.mode == "PA" else "RGB")
    size = (LARGEST_EDGE, LARGEST_EDGE)
    return image.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=3.0)


def _unreadable(label: str, error: Exception) -> BadFile:
    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = f"it is damaged, or none of {', '.join(_FORMATS)}"
    return BadFile(f"{label} can't be read as a picture: {reason}.")
