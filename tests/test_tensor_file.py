"""safetensors files: broken ones, and places that can't be written to."""

import errno
import os
from pathlib import Path

import pytest
import torch

from unlearn_core.errors import BadFile
from unlearn_core.tensor_file import file_bytes, read_names, read_tensors, write_whole

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
        (b"<!DOCTYPE html><html>404</html>", "not a whole safetensors file"),
        (b"PK\x03\x04rest of a zip", "pickle"),
        (b"\x80\x02}q\x00.", "pickle"),
    ],
)
def test_a_broken_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    for read in (read_names, read_tensors):
        with pytest.raises(BadFile, match=message):
            read(tmp_path / "a.safetensors")


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
