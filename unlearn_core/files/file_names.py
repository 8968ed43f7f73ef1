"""File names from what users type: safe on every system, and not taken yet."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

from ..errors import BadConcept

_LONGEST = 80
"""Bytes of a name; file systems allow 255, and prefixes and endings come on top."""
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|conin|conout|com\d|lpt\d)", re.IGNORECASE)


def typed_path(text: str) -> Path:
    """A path as a user typed it; "~" at its start is the user's own folder.

    Shells leave it as it is in quotes, behind "=" and in a list of concepts.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:  # "~name" of nobody
        return Path(text)


def safe_file_name(name: str) -> str:
    """A name for a file, without ending, from a concept's name: "Van Gogh" is "van-gogh".

    Lower case letters and digits of any script, "_" and single "-", at most 80 bytes of UTF-8; an
    emoji becomes its Unicode name ("dog-face"), a long name is cut and gets a short hash, and a
    name that Windows reserves gets "-concept" behind it. Raises BadConcept if nothing is left.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).lower())
    safe = re.sub(r"-+", "-", "".join(_safe_character(letter) for letter in folded)).strip("-_")
    if not any(letter.isalnum() for letter in safe):
        raise BadConcept(
            f"No file can be named after {name[:40]!r}: it has no letters or digits. Give the "
            "concept a name such as 'van gogh'."
        )
    if _WINDOWS_DEVICES.fullmatch(safe):
        return f"{safe}-concept"
    if len(safe.encode()) <= _LONGEST:
        return safe
    mark = hashlib.sha256(safe.encode()).hexdigest()[:8]
    return f"{safe.encode()[: _LONGEST - 9].decode(errors='ignore').strip('-_')}-{mark}"


def unused_path(folder: Path, stem: str, suffix: str = ".safetensors") -> Path:
    """`folder/stem.safetensors`, or with "-2", "-3", ... behind the stem if that exists.

    Hosts remember a file by its name, so a new result takes a new one.
    """
    name = unused_name(stem, lambda name: (folder / f"{name}{suffix}").exists())
    return folder / f"{name}{suffix}"


def unused_name(wanted: str, is_taken: Callable[[str], bool]) -> str:
    """`wanted`, or with "-2", "-3", ... behind it: the first that is not taken."""
    name, number = wanted, 1
    while is_taken(name):
        number += 1
        name = f"{wanted}-{number}"
    return name


def _safe_character(letter: str) -> str:
    kind = unicodedata.category(letter)
    if kind[0] in "LNM" or letter == "_":
        return "" if letter == "\ufe0f" else letter  # the emoji variant selector counts as a mark
    if kind == "So":
        return f"-{unicodedata.name(letter, '').lower().replace(' ', '-')}-"
    return "" if kind == "Cf" else "-"
