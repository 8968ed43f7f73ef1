"""The emoji drawings: fetched with npm, rasterised once, kept as one array."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.emoji_canvas.world import CONTROLS, OBJECTS, Thing

SIZE = 128
"""Edge of a drawing in pixels."""
_RASTER = 160
_OPAQUE = 20
"""Alpha above which a pixel counts when a drawing is cropped."""


@dataclass(frozen=True)
class EmojiSet:
    """One npm package of drawings."""

    package: str
    version: str
    sha256: str
    """Of the package's tarball."""

    @property
    def file_name(self) -> str:
        """What `npm pack` calls the tarball."""
        return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


SETS = {
    "noto": EmojiSet(
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    ),
    "twemoji": EmojiSet(
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    ),
    "fluent-flat": EmojiSet(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "fluent-3d": EmojiSet(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    "noto-v1": EmojiSet(
        "@iconify-json/noto-v1",
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    ),
    "emojione": EmojiSet(
        "@iconify-json/emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    ),
    "fluent": EmojiSet(
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
    ),
}


class DrawingsUnavailable(RuntimeError):
    """npm is missing, offline, or handed out another file than the pinned one."""


def _tarball(emoji_set: EmojiSet, folder: Path) -> Path:
    file = folder / emoji_set.file_name
    if not file.exists():
        request = f"{emoji_set.package}@{emoji_set.version}"
        try:
            subprocess.run(
                ["npm", "pack", "--silent", request],
                cwd=folder, check=True, capture_output=True, encoding="utf-8",
            )  # fmt: skip
        except (OSError, subprocess.CalledProcessError) as error:
            detail = getattr(error, "stderr", None) or error
            raise DrawingsUnavailable(f"npm pack {request} failed: {detail}") from error
    if hashlib.sha256(file.read_bytes()).hexdigest() != emoji_set.sha256:
        raise DrawingsUnavailable(f"{file} is not the pinned release. Delete it and try again.")
    return file


def _svg_picture(icons: dict, name: str) -> Image.Image:
    import resvg_py

    if name not in icons["icons"]:
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    box = [icon.get(key, icons.get(key, default)) for key, default in
           (("left", 0), ("top", 0), ("width", 16), ("height", 16))]  # fmt: skip
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=_RASTER, height=_RASTER))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def _tight(image: Image.Image) -> Image.Image:
    """Cropped to what is drawn, centred in a square of SIZE."""
    opaque = image.getchannel("A").point(lambda alpha: 255 if alpha > _OPAQUE else 0)
    image = image.crop(opaque.getbbox())
    edge = max(image.size)
    square = Image.new("RGBA", (edge, edge))
    square.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
    return square.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _read_set(name: str, file: Path, things: tuple[Thing, ...]) -> NDArray[np.uint8]:
    with tarfile.open(file) as archive:

        def content(member: str) -> bytes:
            stream = archive.extractfile(f"package/{member}")
            assert stream is not None
            return stream.read()

        if name == "fluent-3d":
            images = [
                Image.open(io.BytesIO(content(f"assets/{thing.codepoint}.webp"))).convert("RGBA")
                for thing in things
            ]
        else:
            icons = json.loads(content("icons.json"))
            known = icons["icons"].keys() | icons.get("aliases", {}).keys()
            images = [
                _svg_picture(icons, thing.icon)
                if thing.icon in known
                else Image.new("RGBA", (1, 1), (0, 0, 0, 255))
                for thing in things
            ]
    return np.stack([np.asarray(_tight(image)) for image in images])


def load_drawings(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Set name -> (objects + controls, SIZE, SIZE, 4) RGBA, in the order of the world.

    Fetches the packages into `folder` on the first call. An object that a set lacks is a black
    square there (`lacks`). Raises DrawingsUnavailable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cache = folder / "drawings.npz"
    things = OBJECTS + CONTROLS
    if cache.exists():
        with np.load(cache) as stored:
            drawings = {name: stored[name] for name in stored.files}
        if drawings.keys() == SETS.keys() and len(drawings["noto"]) == len(things):
            return drawings
    drawings = {
        name: _read_set(name, _tarball(emoji_set, folder), things)
        for name, emoji_set in SETS.items()
    }
    np.savez_compressed(cache, **drawings)
    return drawings


def lacks(drawing: NDArray[np.uint8]) -> bool:
    """Whether a set has no such object."""
    return not drawing[..., :3].any()
