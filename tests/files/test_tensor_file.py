"""safetensors files: broken ones, and places that can't be written to."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from unlearn_core.errors import BadFile
from unlearn_core.files.tensor_file import (
    file_bytes,
    is_finite,
    read_names,
    read_tensors,
    write_whole,
)

CONTENT = file_bytes({"a": torch.arange(100.0), "b": torch.ones(2, 3).half()}, {"note": "dög"})


def test_what_is_written_is_read_back_as_float32(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.safetensors", CONTENT)
    assert read_names(tmp_path / "a.safetensors") == ["a", "b"]
    tensors, metadata = read_tensors(tmp_path / "a.safetensors")
    assert metadata == {"note": "dög"}
    assert torch.equal(tensors["a"], torch.arange(100.0))
    assert tensors["b"].dtype == torch.float32
    assert list(tmp_path.iterdir()) == [tmp_path / "a.safetensors"]


def test_names_that_are_no_utf_8_are_written_as_numbers(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2)}
    write_whole(tmp_path / "a", file_bytes(tensors, {"d\udcffg": "x\udcff犬"}))
    _, metadata = read_tensors(tmp_path / "a")
    assert metadata == {r"d\udcffg": r"x\udcff犬"}


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "a", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "elsewhere", "link"]


def test_what_was_read_outlives_the_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", CONTENT)
    tensors, _ = read_tensors(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"x" * len(CONTENT))
    assert torch.equal(tensors["a"], torch.arange(100.0))


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    table = torch.arange(12.0).view(3, 4)
    write_whole(tmp_path / "a", file_bytes({"a": table, "b": table, "c": table.t()}, {}))
    tensors, _ = read_tensors(tmp_path / "a")
    assert torch.equal(tensors["b"], table)
    assert torch.equal(tensors["c"], table.t())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole safetensors file"),
        (b"\xff" * 100, "not a whole safetensors file"),
        (b"\x00" * 100, "not a whole safetensors file"),
        (CONTENT[:5], "not a whole safetensors file"),
        (CONTENT[:50], "not a whole safetensors file"),
        (CONTENT[:-1], "not a whole safetensors file"),
        (CONTENT + b"more", "not a whole safetensors file"),
        (b"<!DOCTYPE html><html>404</html>", "not a whole safetensors file.*a web page"),
        (b"\n<HTML><body>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "a Git LFS pointer"),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
        (b"PK\x03\x04rest of a zip", "pickle"),
        (b"\x80\x02}q\x00.", "pickle"),
    ],
)
def test_a_broken_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    for read in (read_names, read_tensors):
        with pytest.raises(BadFile, match=message):
            read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_a_header_whose_length_looks_like_a_pickle_is_read(length: int, tmp_path: Path) -> None:
    padding = 0
    while (content := file_bytes({"a": torch.ones(2)}, {"x": "y" * padding}))[0:2] != bytes(
        [length & 0xFF, length >> 8]
    ):
        padding += 1
    (tmp_path / "a.safetensors").write_bytes(content)
    assert read_names(tmp_path / "a.safetensors") == ["a"]


def raw(header: dict[str, object], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("name", "shape"),
    [("a", [1] * 65), ("a", [1] * 9), ("a" * 5000, [1]), ("a\x1b[2J", [1]), ("a\n", [1])],
)
def test_headers_that_no_model_has_are_one_short_line(
    name: str, shape: list[int], tmp_path: Path
) -> None:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}
    (tmp_path / "a.safetensors").write_bytes(raw({name: entry}, bytes(4)))
    for read in (read_names, read_tensors):
        with pytest.raises(BadFile) as caught:
            read(tmp_path / "a.safetensors")
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()


FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float8_e4m3fn])
def test_a_number_that_is_not_finite_is_seen_in_every_float_type(dtype: torch.dtype) -> None:
    for shape in ((0,), (), (3, 5), (2**22 + 3,)):
        assert is_finite(torch.ones(shape).to(dtype))
    unsound = [float("nan")] + ([float("inf"), -float("inf")] if dtype in FLOATS else [])
    for value in unsound:
        assert not is_finite(torch.tensor(value).to(dtype))
        for place in (0, 2**22 - 1, 2**22 + 2):
            numbers = torch.ones(2**22 + 3)
            numbers[place] = value
            assert not is_finite(numbers.to(dtype))


def test_a_number_too_large_for_float32_is_refused(tmp_path: Path) -> None:
    large = torch.tensor([1e300], dtype=torch.float64)
    (tmp_path / "a").write_bytes(file_bytes({"a": large}, {}))
    with pytest.raises(BadFile, match="a holds numbers that are not finite"):
        read_tensors(tmp_path / "a")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_and_a_device_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        for read in (read_names, read_tensors):
            with pytest.raises(BadFile, match="no regular file"):
                read(path)


def test_a_name_of_300_letters_is_one_line() -> None:
    with pytest.raises(BadFile, match="can't be read"):
        read_names(Path("x" * 300))


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="There is no file"):
        read_names(tmp_path / "a.safetensors")
    with pytest.raises(BadFile, match="is a folder"):
        read_names(tmp_path)
    with pytest.raises(BadFile):
        read_names(tmp_path / "a\x00b")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"There is no folder .*nowhere"):
        write_whole(tmp_path / "nowhere" / "a.safetensors", CONTENT)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadFile, match="There is no folder"):
        write_whole(tmp_path / "file" / "a.safetensors", CONTENT)


def test_a_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(BadFile, match="is a folder"):
        write_whole(tmp_path / "a.safetensors", CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("name", ["a\x00.safetensors", "a" * 300 + ".safetensors"])
def test_a_name_the_system_refuses_is_a_bad_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="can't be written"):
        write_whole(tmp_path / name, CONTENT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "read-only"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
)
def test_an_error_of_the_disk_leaves_the_old_file_and_no_other(
    error: OSError, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")

    def fail(number: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(BadFile, match=message):
        write_whole(path, CONTENT)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BadFile, match="read-only"):
        write_whole(tmp_path / "a.safetensors", CONTENT)
