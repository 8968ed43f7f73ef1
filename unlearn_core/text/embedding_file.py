"""Learned vectors as a textual-inversion file that ComfyUI, the WebUI and diffusers load."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BadFile
from ..files.file_names import safe_file_name, unused_path
from ..files.output_files import check_tensor_file
from ..files.tensor_file import file_bytes, read_names, read_tensors, write_whole
from .tokenizer import PIECES, tokenize

_TENSOR = "emb_params"


def save_embedding(vectors: Tensor, path: Path) -> None:
    """Write vectors (n, width), n in 1..75, as one float32 tensor "emb_params", all at once.

    The file's stem is what users write in a prompt, so it must not be a word that means something
    by itself: the WebUI would swap the vectors in for each "dog" if the file were dog.safetensors.
    A number, a word of the CLIP vocabulary, or letters alone are refused for that.

    Raises BadFile for such a name (and says a free one), for a name that ComfyUI can't find, for
    vectors of another shape or that are not finite, and as `write_whole` does.
    """
    path = Path(path)
    check_embedding_name(path)
    _check_vectors(vectors, "These vectors")
    write_whole(path, file_bytes({_TENSOR: vectors.detach().to(torch.float32)}, {}))


def load_embedding(path: Path, width: int | None = None) -> Tensor:
    """Read learned vectors: (n, width) float32 on the CPU, n in 1..75.

    Takes {"emb_params": (n, width)} and diffusers' {token: (width,) or (n, width)}. Raises BadFile
    for a file that is missing, damaged, a pickle, no embedding, or of another width than `width`.
    """
    path = Path(path)
    names = read_names(path)
    if len(names) != 1:
        raise BadFile(
            f"{path} is not an SD2 embedding: it holds {len(names)} tensors, and one was expected."
        )
    tensors, _ = read_tensors(path)
    vectors = tensors[names[0]]
    if vectors.dim() == 1:
        vectors = vectors[None]
    _check_vectors(vectors, str(path))
    if width is not None and vectors.shape[1] != width:
        raise BadFile(
            f"{path} was made for text width {vectors.shape[1]}, this model has {width}. Choose an "
            "embedding that was made for this model."
        )
    return vectors


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
