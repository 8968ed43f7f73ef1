"""Pictures from files and back: found in a folder, read, cropped to the model's size."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..errors import BadConcept, BadFile
from .input_files import is_folder, require_file
from .picture_decoder import LARGEST_EDGE, decode, endings

MOST_PICTURES = 64
_COMPANIONS = (".txt", ".caption", ".json", ".md", ".ini", ".db")
"""Texts about pictures and what file managers leave: nobody takes them for pictures."""
_NAMED = 5
"""Files that were left out, by name."""


def read_pictures(folder: Path, used: bool = True) -> tuple[Tensor, ...]:
    """Every picture of a folder in the order of names, each (3, h, w) float32 in [-1, 1].

    With `used` False each is read too, but only its outline is kept. Raises as `picture_files` and
    `read_picture` do.
    """
    pictures = map(read_picture, picture_files(folder))
    return tuple(pictures if used else map(outline, pictures))


def picture_files(folder: Path) -> list[Path]:
    """The files of a folder that are named as pictures, in the order of names.

    Raises BadFile for a missing folder, and BadConcept when there are none or more than 64.
    """
    paths = [path for path in _visible_files(folder) if path.suffix.lower() in endings()]
    if not paths:
        raise BadConcept(f"There is no picture in {folder} ({', '.join(endings())}).")
    if len(paths) > MOST_PICTURES:
        raise BadConcept(f"{folder} holds {len(paths)} pictures; give {MOST_PICTURES} at most.")
    return paths


def left_out(folder: Path) -> str | None:
    """A sentence on the files of a folder that are of no kind that is read; None without any."""
    known = (*endings(), *_COMPANIONS)
    names = [path.name for path in _visible_files(folder) if path.suffix.lower() not in known]
    if not names:
        return None
    some = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    were = "1 file was" if len(names) == 1 else f"{len(names)} files were"
    return f"{were} left out of {folder}: {some}; what is read ends with {', '.join(endings())}."


def _visible_files(folder: Path) -> list[Path]:
    """Without hidden ones, which macOS adds to each file, and without folders."""
    if not is_folder(folder):
        raise BadFile(f"There is no folder {folder}.")
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise BadFile(f"The folder {folder} can't be read: {error.strerror}.") from error
    return sorted(path for path in paths if not is_folder(path))


def read_picture(path: Path) -> Tensor:
    """One picture, (3, h, w) float32 in [-1, 1]; transparent parts become white.

    One with an edge above 1024 becomes the square in its middle. Raises BadFile for what is no
    picture, or too large.
    """
    require_file(path)
    try:
        with path.open("rb") as file:
            return to_tensor(decode(file, path.name))
    except OSError as error:
        raise BadFile(f"{path.name} can't be read: {error.strerror}.") from error


def picture_from_bytes(content: bytes, label: str) -> Tensor:
    """As `read_picture`, from a file's content."""
    return to_tensor(decode(io.BytesIO(content), label))


def outline(picture: Tensor) -> Tensor:
    """A black picture of the same size that takes no memory, for settings that use none."""
    return torch.full((), -1.0).expand(picture.shape)


def to_tensor(image: Image.Image) -> Tensor:
    """A PIL picture as (3, h, w) float32 in [-1, 1]."""
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip to white
        image = image.convert("I").point(lambda level: level / 256).convert("L")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    rgb = Image.alpha_composite(white, rgba).convert("RGB")
    flat = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return flat.view(rgb.height, rgb.width, 3).permute(2, 0, 1).float() / 127.5 - 1


def to_image(pixels: Tensor) -> Image.Image:
    """(3, h, w) float32 in [-1, 1] as a PIL picture."""
    levels = ((pixels.detach().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    channels, height, width = levels.shape
    if channels != 3:
        raise ValueError(f"a picture has 3 channels, not {channels}")
    data = bytes(levels.permute(1, 2, 0).contiguous().view(-1).tolist())
    return Image.frombytes("RGB", (width, height), data)


def preview_image(preview: Tensor, edge: int) -> Image.Image:
    """A report's preview, (3, h, w) in [0, 1]; small ones whole times larger, about `edge` wide."""
    image = to_image(preview * 2 - 1)
    times = max(1, edge // image.width)
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)


def fit_to_square(images: tuple[Tensor, ...], size: int) -> Tensor:
    """Centre-crop and resize pictures (3, h, w) to one batch (N, 3, size, size)."""
    fitted = []
    for image in images:
        height, width = image.shape[1:]
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        square = image[None, :, top : top + edge, left : left + edge].float()
        fitted.append(
            functional.interpolate(
                square, size=(size, size), mode="bicubic", antialias=True, align_corners=False
            ).clamp(-1, 1)
        )
    return torch.cat(fitted)


def reduced(picture: Tensor) -> Tensor:
    """A picture (3, h, w) as `read_picture` would give it: large ones cropped and made smaller."""
    edge = min(picture.shape[1:])
    if max(picture.shape[1:]) <= LARGEST_EDGE:
        return picture
    return fit_to_square((picture,), min(edge, LARGEST_EDGE))[0]
