"""A PNG without its texts, which Pillow refuses beyond a megabyte though the picture is good."""

from __future__ import annotations

import io
from typing import BinaryIO

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UNSEEN = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
"""Chunks that say nothing about the pixels as they are read here."""


def without_texts(file: BinaryIO) -> BinaryIO | None:
    """A copy in memory without texts and colour profile; None for other files and without any."""
    file.seek(0)
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        return None
    kept, dropped = io.BytesIO(_SIGNATURE), False
    kept.seek(0, io.SEEK_END)
    while head := file.read(8):
        length = int.from_bytes(head[:4], "big")
        if head[4:] in _UNSEEN:
            dropped = True
            file.seek(length + 4, io.SEEK_CUR)
        else:
            kept.write(head + file.read(length + 4))
    kept.seek(0)
    return kept if dropped else None
