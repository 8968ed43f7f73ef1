"""Pictures from files and back: read, check, crop to the model's size."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from .errors import BadConcept, BadFile
from .input_files import is_folder

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MOST_PIXELS = 64_000_000
MOST_PICTURES = 64


def read_pictures(folder: Path) -> tuple[Tensor, ...]:
    """Every picture of a folder in the order of names, each (3, h, w) float32 in [-1, 1].

    Raises as `picture_files` does, and BadFile for a file that is no picture or one beyond 64
    megapixels.
    """
    return tuple(read_picture(path) for path in picture_files(folder))


def picture_files(folder: Path) -> list[Path]:
    """The files of a folder that are named as pictures, in the order of names.

    Raises BadFile for a missing folder, and BadConcept when there are none or more than 64.
    """
    if not is_folder(folder):
        raise BadFile(f"There is no folder {folder}.")
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    except OSError as error:
        raise BadFile(f"{folder} can't be read: {error.strerror}.") from error
    if not paths:
        raise BadConcept(f"There is no picture in {folder} ({', '.join(ENDINGS)}).")
    if len(paths) > MOST_PICTURES:
        raise BadConcept(f"{folder} holds {len(paths)} pictures; give {MOST_PICTURES} at most.")
    return paths


def read_picture(path: Path) -> Tensor:
    """One picture, (3, h, w) float32 in [-1, 1]; transparent parts become white."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise BadFile(
                        f"{path.name} is {image.width}x{image.height}; at most "
                        f"{MOST_PIXELS // 1_000_000} megapixels are read. Make it smaller."
                    )
                upright = ImageOps.exif_transpose(image)
                return to_tensor(upright)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError) as error:
        raise BadFile(f"{path.name} can't be read as a picture: {error}") from error


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
