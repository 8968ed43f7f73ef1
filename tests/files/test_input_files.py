"""Tests of unlearn_core/files/input_files.py."""

import os
from pathlib import Path

import pytest

from unlearn_core.errors import BadFile
from unlearn_core.files import input_files
from unlearn_core.files.input_files import is_file, is_folder, read_text, require_file


def test_text_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    for content in (b"caf\xc3\xa9", b"\xef\xbb\xbfcaf\xc3\xa9"):
        (tmp_path / "a.txt").write_bytes(content)
        assert read_text(tmp_path / "a.txt") == "café"


def test_every_kind_of_line_end_is_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\r\nb\rc\n")
    assert read_text(tmp_path / "a.txt") == "a\nb\nc\n"


def test_what_is_no_utf_8_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BadFile, match=r"latin\.txt is not UTF-8"):
        read_text(tmp_path / "latin.txt")


def test_endless_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_files, "MOST_TEXT", 4)
    (tmp_path / "a.txt").write_text("abcd", "utf-8")
    assert read_text(tmp_path / "a.txt") == "abcd"
    (tmp_path / "a.txt").write_text("abcde", "utf-8")
    with pytest.raises(BadFile, match="is longer than"):
        read_text(tmp_path / "a.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        assert not is_file(path)
        with pytest.raises(BadFile, match="is no regular file"):
            read_text(path)


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="no /dev/fd here")
def test_a_pipe_is_read_where_it_may_be_one() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"a dog\n")
    os.close(writer)
    assert read_text(Path(f"/dev/fd/{reader}"), pipe=True) == "a dog\n"
    os.close(reader)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_path_that_cannot_be_looked_at_is_refused(tmp_path: Path, name: str) -> None:
    for look in (is_file, is_folder, require_file):
        with pytest.raises(BadFile, match="can't be read"):
            look(tmp_path / name)


def test_folders_and_missing_files_are_told_apart(tmp_path: Path) -> None:
    assert is_folder(tmp_path)
    assert not is_folder(tmp_path / "none")
    assert not is_file(tmp_path / "none")
    with pytest.raises(BadFile, match="is a folder"):
        require_file(tmp_path)
    with pytest.raises(BadFile, match="There is no file"):
        require_file(tmp_path / "none")
