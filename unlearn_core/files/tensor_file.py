"""safetensors files: read without trust, written with the same bytes each time and all at once."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import BadFile
from .input_files import require_file
from .temporary_files import temporary_beside

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_OTHER_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: fetch it with `git lfs "
    "pull`, or download it from the page of the file",
    b"<!doctype html": "a web page (HTML): the download did not work. Download the file itself",
    b"<html": "a web page (HTML): the download did not work. Download the file itself",
    b"gguf": "a GGUF file, which is not read here: convert it to safetensors first",
}
_READ_ERRORS = (SafetensorError, OSError, ValueError, TypeError, RuntimeError, AttributeError)
_LONGEST_NAME = 300
_MOST_DIMENSIONS = 8
_MOST_REASON = 300
_WHOLE_NUMBERS = ("position_ids", "row_ids", "num_batches_tracked")
"""What ends the names of a model's tensors that are no weights."""


def read_names(path: Path) -> list[str]:
    """The names of a safetensors file's tensors, sorted; only its header is read.

    Raises BadFile if there is no such file, or it is not a whole safetensors file.
    """
    return sorted(read_shapes(path))


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a safetensors file; raises BadFile as `read_names`."""
    _refuse_what_is_no_file(path)
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                _check_name(path, name)
                shapes[name] = tuple(file.get_slice(name).get_shape())
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error
    for name, shape in shapes.items():
        if len(shape) > _MOST_DIMENSIONS:
            raise BadFile(f"{path}: {name} has {len(shape)} dimensions; the file is broken.")
    return shapes


def read_stored(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Tensors of a safetensors file (None: all) on the CPU, in the dtype as stored; not checked.

    Raises BadFile as `read_names` does.
    """
    wanted = read_names(path) if names is None else names
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in wanted}
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error


def check_numbers(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise BadFile for a tensor that is not of a float type or holds a number that isn't finite.

    Whole numbers may be held by what counts positions, rows and batches.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            if not name.endswith(_WHOLE_NUMBERS) or tensor.is_complex():
                raise BadFile(f"{path}: {name} holds {tensor.dtype}, not float numbers.")
        elif not is_finite(tensor):
            raise BadFile(f"{path}: {name} holds numbers that are not finite; the file is broken.")


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a float tensor are finite: one pass, and no copy of a large tensor."""
    for part in tensor.detach().flatten().split(2**22):
        if not part.numel():
            continue
        try:
            least, most = torch.aminmax(part)  # many times as fast as isfinite; NaN goes through
        except RuntimeError:  # float8, and whatever else this torch or device can't compare
            least = most = part.float()
        if not bool((least.isfinite() & most.isfinite()).all()):
            return False
    return True


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Copies of a safetensors file's tensors as float32 on the CPU, by sorted name; its metadata.

    Raises BadFile as `read_names` does, and for a tensor that is not of a float type or holds a
    number that is not finite; only what is named "alpha" may be a whole number.
    """
    stored = read_stored(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error
    whole = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    tensors = {
        name: tensor.float() if name.endswith("alpha") and tensor.dtype in whole else tensor
        for name, tensor in stored.items()
    }
    check_numbers(path, tensors)
    copies = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}
    check_numbers(path, copies)  # a float64 may be too large for float32
    return copies, metadata


def file_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file as bytes, the same for the same input in every process.

    safetensors itself writes the metadata in random order, so the header is written again, sorted.
    Bytes of a name that are no UTF-8 stand in the metadata as "\\udcff".
    """
    copies = {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in sorted(tensors.items())
    }
    notes = {_in_utf8(name): _in_utf8(value) for name, value in metadata.items()}
    written: bytes = save(copies, notes)
    end = 8 + int.from_bytes(written[:8], "little")
    header = json.dumps(
        json.loads(written[8:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
    header += b" " * (-len(header) % 8)  # the data starts at a multiple of 8, as readers expect
    return len(header).to_bytes(8, "little") + header + written[end:]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in its folder, then rename it over `path`.

    Whoever reads `path` sees the old file or the new one, never a part, and no temporary file
    stays behind, unless the process is killed: `remove_stale` removes it then. A link stays, and
    what it leads to is replaced. Raises BadFile if the folder is missing or refuses, or the disk is
    full.
    """
    try:
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        temporary = temporary_beside(target)
        if not target.parent.is_dir():
            raise BadFile(f"There is no folder {target.parent}: make it, or choose another one.")
        if target.is_dir():
            raise BadFile(f"{path} is a folder: give the name of a file.")
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:
        raise BadFile(f"{path} can't be written: {_reason(error)}") from error


def _in_utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, PermissionError):
        return "its folder is read-only for this user; choose another one."
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOSPC:
        return "the disk is full; make room and save again."
    if number == errno.ENAMETOOLONG:
        return "the name is too long; choose a shorter one."
    return f"{error}."


def _refuse_what_is_no_file(path: Path) -> None:
    require_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise BadFile(f"{path} can't be read: {error}.") from error
    if start[4:9] == b"\0\0\0\0{":
        return  # a header's length can begin with a pickle's bytes: 640 is 80 02
    if start.startswith(_PICKLE_STARTS):
        raise BadFile(
            f"{path} is a pickle (a .pt, .bin or .ckpt file). Such a file can run programs, so it "
            "is not opened here: convert it to safetensors first."
        )
    for other, kind in _OTHER_STARTS.items():
        if start.lstrip().lower().startswith(other):
            raise BadFile(f"{path} is not a whole safetensors file. It is {kind}.")


def _check_name(path: Path, name: str) -> None:
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise BadFile(
            f"{path} is broken: a tensor's name has {len(name)} characters or ones that can't be "
            "shown."
        )


def _unreadable(path: Path, error: Exception) -> BadFile:
    reason = " ".join(str(error).split())[:_MOST_REASON]
    return BadFile(
        f"{path} is not a whole safetensors file ({reason}). If it was downloaded, load it again."
    )
