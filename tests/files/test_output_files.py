"""Where results may be written: found out before the work, and never over what is read."""

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from unlearn_core.errors import BadFile
from unlearn_core.files.input_files import read_text
from unlearn_core.files.output_files import (
    check_apart,
    check_file,
    check_tensor_file,
    check_writable,
    png_bytes,
)
from unlearn_core.files.pictures import picture_files

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX links, pipes and users")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a model as a folder and one as a file, pictures, LoRAs, and links."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "model/model_index.json", "model/unet/w.safetensors", "models/one.safetensors",
        "dog/0.png", "dog/strength.png", "blobs/b.safetensors", "a.safetensors", "b.safetensors",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name, "utf-8")
    (tmp_path / "model" / "vae").mkdir()
    (tmp_path / "model" / "vae" / "v.safetensors").symlink_to(tmp_path / "blobs/b.safetensors")
    (tmp_path / "again").symlink_to(tmp_path / "model")
    (tmp_path / "here").symlink_to(tmp_path)
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "a.safetensors")
    (tmp_path / "hard.safetensors").hardlink_to(tmp_path / "a.safetensors")
    return tmp_path


def paths(*names: str) -> list[Path]:
    return [Path(name) for name in names]


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("files", "inputs", "model", "said"),
    [
        (["models/one.safetensors"], [], "models/one.safetensors", "the model is only read"),
        (["here/models/../models/one.safetensors"], [], "models/one.safetensors", "only read"),
        (["model/unet/w.safetensors"], [], "model", "only read"),
        (["model/new.safetensors"], [], "model", "only read"),
        (["again/unet/new.safetensors"], [], "model", "only read"),
        (["model/new.safetensors"], [], "again", "only read"),
        (["blobs/b.safetensors"], [], "model", "this command reads it"),
        (["a.safetensors"], ["a.safetensors", "b.safetensors"], "model", "reads it"),
        (["here/a.safetensors"], ["a.safetensors"], "model", "reads it"),
        (["link.safetensors"], ["a.safetensors"], "model", "reads it"),
        (["hard.safetensors"], ["a.safetensors"], "model", "reads it"),
        (["a.safetensors"], ["link.safetensors"], "model", "reads it"),
        (["dog/strength.png"], ["dog"], "model", "reads it"),
        (["x.safetensors", "here/x.safetensors"], [], "model", "are the same file"),
        (["x.safetensors", "model/../x.safetensors"], [], "model", "are the same file"),
        (["x.safetensors", "X.safetensors"], [], "model", "are the same file"),
        (["é.safetensors", "e\u0301.safetensors"], [], "model", "are the same file"),
    ],
)
def test_a_result_over_what_is_read_or_over_another_is_refused(
    files: list[str], inputs: list[str], model: str, said: str
) -> None:
    with pytest.raises(BadFile, match=said):
        check_apart(paths(*files), paths(*inputs), Path(model))


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("folder", "inputs", "model"),
    [
        ("model", [], "model"),
        ("again/report", [], "model"),
        ("models", [], "models/one.safetensors"),
        (".", [], "model"),
        ("dog", ["dog"], "model"),
        ("here/dog", ["dog"], "model"),
    ],
)
def test_a_folder_of_results_that_holds_what_is_read_is_refused(
    folder: str, inputs: list[str], model: str
) -> None:
    with pytest.raises(BadFile, match="choose another"):
        check_apart([], paths(*inputs), Path(model), paths(folder))


@pytest.mark.usefixtures("place")
def test_results_beside_what_is_read_are_fine() -> None:
    files = paths("new.safetensors", "dog/new.safetensors", "models/new.safetensors", "r/a.png")
    check_apart(files, paths("dog", "a.safetensors"), Path("models/one.safetensors"), paths("r"))
    check_apart(paths("new.safetensors"), paths("missing"), Path("missing too"))
    assert not any(path.exists() for path in files), "looking writes nothing"


@pytest.mark.parametrize(
    "name", ["a\0b", "x" * 300, "loop", "loop/deeper", "nowhere", "pipe/deeper"]
)
def test_a_folder_that_cannot_be_made_is_found_out_first(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    before = set(tmp_path.iterdir())
    with pytest.raises(BadFile):
        check_writable(tmp_path / name)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "loop", "nowhere", "pipe", "folder"])
def test_a_file_that_cannot_be_written_is_found_out_first(tmp_path: Path, name: str) -> None:
    ending = ".safetensors"
    (tmp_path / f"loop{ending}").symlink_to(tmp_path / f"loop{ending}")
    (tmp_path / f"nowhere{ending}").symlink_to(tmp_path / "missing" / "a")
    os.mkfifo(tmp_path / f"pipe{ending}")
    (tmp_path / f"folder{ending}").mkdir()
    with pytest.raises(BadFile):
        check_tensor_file(tmp_path / f"{name}{ending}")


def test_a_file_that_is_there_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "a.safetensors")
    before = set(tmp_path.iterdir())
    for name in ("a", "link", "new"):
        check_tensor_file(tmp_path / f"{name}.safetensors")
    assert set(tmp_path.iterdir()) == before, "looking writes nothing"


# --- as a user who may not do everything ----------------------------------------------------------

NOBODY = 65534


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder that can't be entered or read, with things in it, and not being root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        closed = folder / "closed"
        (closed / "dog").mkdir(parents=True)
        (closed / "list.jsonl").touch()
        closed.chmod(0)
        if os.geteuid() == 0:
            os.seteuid(NOBODY)
        try:
            yield closed
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
            closed.chmod(0o700)


def test_what_may_not_be_looked_at_is_said_in_one_line(closed_folder: Path) -> None:
    acts: list[Callable[[], object]] = [
        lambda: picture_files(closed_folder),
        lambda: picture_files(closed_folder / "dog"),
        lambda: read_text(closed_folder / "list.jsonl"),
        lambda: check_writable(closed_folder),
        lambda: check_writable(closed_folder / "report"),
        lambda: check_file(closed_folder / "a.png"),
        lambda: check_tensor_file(closed_folder / "dog" / "a.safetensors"),
    ]
    for act in acts:
        with pytest.raises(BadFile, match="Permission denied"):
            act()


def test_a_png_carries_the_texts_that_it_is_given() -> None:
    picture = Image.new("RGB", (2, 2))
    with Image.open(io.BytesIO(png_bytes(picture, texts={"prompt": '{"1": "é"}'}))) as read:
        assert read.info == {"prompt": '{"1": "é"}'}
    with Image.open(io.BytesIO(png_bytes(picture))) as read:
        assert read.info == {}
