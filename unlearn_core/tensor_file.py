"""safetensors files: read without trust, written with the same bytes each time and all at once."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .errors import BadFile
from .temporary_files import temporary_beside

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_READ_ERRORS = (SafetensorError, OSError, ValueError, TypeError, RuntimeError, AttributeError)


def read_names(path: Path) -> list[str]:
    """The names of a safetensors file's tensors, sorted; only its header is read.

    Raises BadFile if there is no such file, or it is not a whole safetensors file.
    """
    _refuse_what_is_no_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return sorted(file.keys())
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Copies of a safetensors file's tensors as float32 on the CPU, by sorted name; its metadata.

    Raises BadFile as `read_names` does, and for a tensor that is not of a float type or holds a
    number that is not finite.
    """
    _refuse_what_is_no_file(path)
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
            for name in sorted(file.keys()):
                tensor: Tensor = file.get_tensor(name)
                if not tensor.is_floating_point():
                    raise BadFile(f"{path}: {name} holds {tensor.dtype}, not float numbers.")
                tensors[name] = tensor.to(torch.float32, copy=True)
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from error
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise BadFile(f"{path}: {name} holds numbers that are not finite; the file is broken.")
    return tensors, metadata


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
    try:
        if path.is_dir():
            raise BadFile(f"{path} is a folder: give the name of a safetensors file.")
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError as error:
        raise BadFile(f"There is no file {path}.") from error
    except (OSError, ValueError) as error:
        raise BadFile(f"{path} can't be read: {error}.") from error
    if start.startswith(_PICKLE_STARTS):
        raise BadFile(
            f"{path} is a pickle (a .pt, .bin or .ckpt file). Such a file can run programs, so it "
            "is not opened here: convert it to safetensors first."
        )


def _unreadable(path: Path, error: Exception) -> BadFile:
    return BadFile(
        f"{path} is not a whole safetensors file ({error}). If it was downloaded, load it again."
    )
