"""Pictures from files and back."""

import contextlib
import io
import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from unlearn_core.errors import BadConcept, BadFile
from unlearn_core.files import picture_decoder, pictures
from unlearn_core.files.pictures import (
    fit_to_square,
    left_out,
    outline,
    read_picture,
    read_pictures,
    reduced,
    to_image,
    to_tensor,
)

RED, GREEN = (255, 0, 0), (0, 255, 0)


def colourful(width: int = 9, height: int = 5) -> Image.Image:
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=generator)
    return Image.frombytes("RGB", (width, height), bytes(data.flatten().tolist()))


def test_a_picture_goes_to_a_tensor_and_back_unchanged(tmp_path: Path) -> None:
    image = colourful()
    image.save(tmp_path / "x.png")
    pixels = read_picture(tmp_path / "x.png")
    assert pixels.shape == (3, 5, 9)
    assert pixels.dtype == torch.float32
    assert to_image(pixels).tobytes() == image.tobytes()


def test_black_is_minus_one_and_white_is_one_and_channels_are_in_order() -> None:
    assert bool((to_tensor(Image.new("RGB", (2, 2), "black")) == -1).all())
    assert bool((to_tensor(Image.new("RGB", (2, 2), "white")) == 1).all())
    assert to_tensor(Image.new("RGB", (1, 1), RED)).flatten().tolist() == [1, -1, -1]


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0, [1.0, 1.0, 1.0]), (255, [1.0, -1.0, -1.0]), (51, [1.0, 0.6, 0.6])]
)
def test_transparent_parts_become_white(alpha: int, expected: list[float], tmp_path: Path) -> None:
    Image.new("RGBA", (1, 1), (*RED, alpha)).save(tmp_path / "x.png")
    pixels = read_picture(tmp_path / "x.png").flatten()
    assert pixels.tolist() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_usual_kind_of_file_is_read(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    if mode == "I;16":
        Image.frombytes("I;16", (8, 8), (32768).to_bytes(2, "little") * 64).save(path)
    else:
        gray = Image.new("RGB", (8, 8), (128, 128, 128))
        (gray.quantize() if mode == "P" else gray.convert(mode)).save(path)
    pixels = read_picture(path)
    assert pixels.shape == (3, 8, 8)
    if mode != "1":
        assert float(pixels.abs().max()) < 0.1


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (1, 2)), (6, (0, 1))])
def test_a_photo_is_turned_upright(
    orientation: int, corner: tuple[int, int], tmp_path: Path
) -> None:
    image = Image.new("RGB", (3, 2), "black")
    image.putpixel((0, 0), GREEN)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "x.png", exif=exif)
    green = read_picture(tmp_path / "x.png")[1]
    assert divmod(int(green.argmax()), green.shape[1]) == corner


def test_pictures_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, level in (("b.png", 255), ("a.PNG", 0), ("c.webp", 255)):
        Image.new("RGB", (2, 2), (level,) * 3).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture", "utf-8")
    assert [round(float(p.mean())) for p in read_pictures(tmp_path)] == [-1, 1, 1]


def test_a_folder_without_pictures_and_one_with_too_many_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="There is no folder"):
        read_pictures(tmp_path / "missing")
    with pytest.raises(BadConcept, match="There is no picture"):
        read_pictures(tmp_path)
    for i in range(pictures.MOST_PICTURES + 1):
        (tmp_path / f"{i}.png").touch()
    with pytest.raises(BadConcept, match="holds 65 pictures; give 64 at most"):
        read_pictures(tmp_path)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM" * 9])
def test_a_file_that_is_no_picture_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(BadFile, match=r"x\.png can't be read as a picture"):
        read_picture(tmp_path / "x.png")
    with pytest.raises(BadFile):
        read_picture(tmp_path / "missing.png")
    with pytest.raises(BadFile):
        read_picture(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it says what is broken
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "bmp", "gif", "tiff", "avif"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(form: str, tmp_path: Path) -> None:
    if f".{form}" not in picture_decoder.endings() and form == "avif":
        pytest.skip("this Pillow has no AVIF")
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    colourful(24, 24).save(buffer, form, **({} if form in ("bmp", "gif") else {"exif": exif}))
    draws = random.Random(0)
    path = tmp_path / "x.png"
    for _ in range(80):
        data = bytearray(buffer.getvalue()[: draws.randrange(1, len(buffer.getvalue()) + 1)])
        for _ in range(draws.randrange(4)):
            data[draws.randrange(len(data))] = draws.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(BadFile):
            assert read_picture(path).shape[0] == 3


def test_too_many_pixels_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colourful(9, 5).save(tmp_path / "x.png")
    monkeypatch.setattr(picture_decoder, "MOST_PIXELS", 45)
    read_picture(tmp_path / "x.png")
    monkeypatch.setattr(picture_decoder, "MOST_PIXELS", 44)
    monkeypatch.setattr(PngImageFile, "load", lambda _: pytest.fail("it was read"))
    with pytest.raises(BadFile, match="9x5"):
        read_picture(tmp_path / "x.png")


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    header = bytearray(b"BM" + bytes(52))
    for at, value in ((10, 54), (14, 40), (18, 60_000), (22, 60_000)):
        header[at : at + 4] = value.to_bytes(4, "little")
    header[26], header[28] = 1, 24
    (tmp_path / "x.bmp").write_bytes(header)
    with pytest.raises(BadFile):
        read_picture(tmp_path / "x.bmp")


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), RED).save(tmp_path / "x.png")
    assert read_picture(tmp_path / "x.png").shape == (3, 1, 1)


def test_values_out_of_range_are_clipped_and_gray_is_refused() -> None:
    image = to_image(torch.tensor([-3.0, 0.0, 3.0]).view(3, 1, 1))
    assert image.getpixel((0, 0)) == (0, 128, 255)
    with pytest.raises(ValueError, match="3 channels, not 1"):
        to_image(torch.zeros(1, 2, 2))


@pytest.mark.parametrize("size", [(3, 64, 100), (3, 100, 64), (3, 64, 64), (3, 32, 400)])
def test_the_middle_is_cropped_to_a_square(size: tuple[int, int, int]) -> None:
    image = torch.full(size, -1.0)
    height, width = size[1:]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    image[:, top : top + edge, left : left + edge] = 0.5
    fitted = fit_to_square((image,), 64)
    assert fitted.shape == (1, 3, 64, 64)
    torch.testing.assert_close(fitted, torch.full_like(fitted, 0.5))


def test_pictures_of_all_sizes_and_types_make_one_batch() -> None:
    sizes = [(1, 1), (200, 33), (64, 64)]
    images = (*(torch.zeros(3, *size) for size in sizes), torch.zeros(3, 40, 40).half())
    fitted = fit_to_square(images, 64)
    assert fitted.shape == (4, 3, 64, 64)
    assert fitted.dtype == torch.float32


def test_resizing_stays_in_range() -> None:
    edges = torch.ones(3, 16, 16)
    edges[:, :, ::2] = -1
    assert float(fit_to_square((edges,), 61).abs().max()) <= 1


def test_a_picture_in_memory_is_reduced_as_one_from_a_file() -> None:
    wide = torch.rand(3, 40, 1100, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(reduced(wide), wide[:, :, 530:570])
    assert reduced(torch.zeros(3, 1100, 2000)).shape == (3, 1024, 1024)
    small = torch.zeros(3, 1024, 1000)
    assert reduced(small) is small


def test_an_outline_has_the_size_and_holds_nothing() -> None:
    picture = outline(torch.zeros(3, 1024, 1000))
    assert picture.shape == (3, 1024, 1000)
    assert picture.untyped_storage().nbytes() == 4


def test_pictures_that_are_not_used_are_read_all_the_same(tmp_path: Path) -> None:
    colourful(40, 32).save(tmp_path / "a.png")
    (picture,) = read_pictures(tmp_path, used=False)
    assert picture.shape == (3, 32, 40)
    assert picture.untyped_storage().nbytes() == 4
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(BadFile, match=r"b\.png"):
        read_pictures(tmp_path, used=False)


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.TIFF", "a.jfif", "a.bmp"])
def test_further_kinds_of_pictures_are_read(name: str, tmp_path: Path) -> None:
    form = {".gif": "GIF", ".jfif": "JPEG", ".bmp": "BMP"}.get(name[1:], "TIFF")
    colourful(40, 32).save(tmp_path / name, form)
    (picture,) = read_pictures(tmp_path)
    assert picture.shape == (3, 32, 40)
    assert left_out(tmp_path) is None


def test_hidden_files_and_folders_are_none_of_the_users_pictures(tmp_path: Path) -> None:
    colourful(40, 32).save(tmp_path / "0.png")
    (tmp_path / "._0.png").write_bytes(b"\0\5\x16\7 macOS keeps its own here")
    (tmp_path / "sub.png").mkdir()
    (tmp_path / "0.txt").write_text("a caption", "utf-8")
    assert len(read_pictures(tmp_path)) == 1
    assert left_out(tmp_path) is None


def test_files_that_are_left_out_are_counted_and_named(tmp_path: Path) -> None:
    colourful(40, 32).save(tmp_path / "0.png")
    (tmp_path / "a.heic").touch()
    assert str(left_out(tmp_path)).startswith(f"1 file was left out of {tmp_path}: a.heic; ")
    for name in "bcdefg":
        (tmp_path / f"{name}.psd").touch()
    said = str(left_out(tmp_path))
    assert "7 files were left out" in said
    assert "a.heic, b.psd, c.psd, d.psd, e.psd, ...; what is read ends with" in said
