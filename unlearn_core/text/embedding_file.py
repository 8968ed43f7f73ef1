"""Learned vectors as a textual-inversion file that ComfyUI, the WebUI and diffusers load."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BadFile
from ..files.file_names import safe_file_name, unused_path
from ..files.output_files import check_tensor_file
from ..files.tensor_file import file_bytes, read_names, read_tensors, write_whole
from .tokenizer import PIECES, tokenize

_ONE, _TWO = "emb_params", ("clip_l", "clip_g")
"""What the tensor of one text encoder is called, and those of SDXL's two."""


def save_embedding(vectors: Tensor, path: Path, widths: Sequence[int] = ()) -> None:
    """Write vectors (n, width), n in 1..75, as one float32 tensor "emb_params", all at once.

    Where `widths` are two, those of SDXL's text encoders side by side, it is two tensors, "clip_l"
    and "clip_g". The file's stem is what users write in a prompt, so it must not be a word that
    means something by itself: the WebUI would swap the vectors in for each "dog" if the file were
    dog.safetensors. A number, a word of the CLIP vocabulary, or letters alone are refused for that.

    Raises BadFile for such a name (and says a free one), for a name that ComfyUI can't find, for
    vectors of another shape or that are not finite, and as `write_whole` does.
    """
    path = Path(path)
    check_embedding_name(path)
    _check_vectors(vectors, "These vectors")
    parts = [vectors]
    if len(widths) > 1:
        parts = [part.contiguous() for part in vectors.split(list(widths), dim=1)]
    names = (_ONE,) if len(parts) == 1 else _TWO
    tensors = {n: v.detach().to(torch.float32) for n, v in zip(names, parts, strict=True)}
    write_whole(path, file_bytes(tensors, {}))


def load_embedding(path: Path, width: int | None = None) -> Tensor:
    """Read learned vectors: (n, width) float32 on the CPU, n in 1..75.

    Takes {"emb_params": (n, width)} and diffusers' {token: (width,) or (n, width)}, and of SDXL
    {"clip_l": ..., "clip_g": ...}, which come side by side. Raises BadFile for a file that is
    missing, damaged, a pickle, no embedding, or of another width than `width`.
    """
    path = Path(path)
    names = read_names(path)
    if len(names) != 1 and sorted(names) != sorted(_TWO):
        raise BadFile(
            f"{path} is not an embedding: it holds {len(names)} tensors, and one was expected, or "
            f"{_TWO[0]} and {_TWO[1]}."
        )
    tensors, _ = read_tensors(path)
    parts = [tensors[name] for name in (names if len(names) == 1 else _TWO)]
    parts = [part[None] if part.dim() == 1 else part for part in parts]
    for part in parts:
        _check_vectors(part, str(path))
    if len({len(part) for part in parts}) > 1:
        counts = " and ".join(str(len(part)) for part in parts)
        raise BadFile(f"{path}: {_TWO[0]} and {_TWO[1]} hold {counts} vectors, not as many.")
    found = sum(part.shape[1] for part in parts)
    if width is not None and found != width:
        raise BadFile(
            f"{path} was made for text width {found}, this model has {width}. Choose an embedding "
            "that was made for this model."
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def free_embedding_name(concept: str, folder: Path) -> str:
    """A stem for an embedding of a concept that no prompt says and no file in `folder` has.

    "dog" gives "forget-dog-concept", then "forget-dog-concept-2". Raises BadConcept for a concept
    without letters or digits.
    """
    return unused_path(folder, f"forget-{safe_file_name(concept)}-concept").stem


def check_embedding_name(path: Path) -> None:
    """Raise BadFile for a name that `save_embedding` refuses."""
    stem = path.stem
    if path.suffix != ".safetensors":
        raise BadFile(f"{path.name}: an embedding's file name must end in .safetensors.")
    if not re.fullmatch(r"[\w.-]*\w", stem):
        raise BadFile(
            f"ComfyUI can't find an embedding named {stem!r} from a prompt: use letters, digits, "
            f"'-' and '_' only{_alternative(path)}."
        )
    if stem.isalpha() or stem.isdigit() or len(tokenize(stem)) == 1:
        raise BadFile(
            f"A prompt may say {stem!r} as a plain word, and the WebUI would then put these "
            f"vectors in its place{_alternative(path)}."
        )


def _alternative(path: Path) -> str:
    if not any(letter.isalnum() for letter in path.stem):
        return ""
    return f": take {free_embedding_name(path.stem, path.parent)!r}, for example"


def _check_vectors(vectors: Tensor, what: str) -> None:
    shape = tuple(vectors.shape)
    if len(shape) != 2 or not 1 <= shape[0] <= PIECES or not shape[1]:
        raise BadFile(
            f"{what}: an embedding is 1 to {PIECES} vectors of one width, found shape {shape}."
        )
    if not bool(vectors.isfinite().all()):
        raise BadFile(f"{what}: an embedding must not hold numbers that are not finite.")


def check_embedding_file(path: Path) -> None:
    """As `check_tensor_file`, and refuse what `save_embedding` would refuse after the training."""
    check_tensor_file(path)
    check_embedding_name(path)
