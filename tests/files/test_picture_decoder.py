"""What comes out of good, odd, damaged and hostile picture files, and what it costs."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngImageFile

from unlearn_core.errors import BadFile
from unlearn_core.files.pictures import picture_from_bytes

MEASURE = """
import resource, sys
from pathlib import Path
from unlearn_core.files.pictures import read_picture
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shape = tuple(read_picture(Path(sys.argv[1])).shape)
print(shape, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def colourful(width: int = 40, height: int = 32) -> Image.Image:
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=generator)
    return Image.frombytes("RGB", (width, height), bytes(data.flatten().tolist()))


def content(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    head = kind + data
    return struct.pack(">I", len(data)) + head + struct.pack(">I", zlib.crc32(head))


def before_pixels(png: bytes, added: bytes) -> bytes:
    at = png.index(b"IDAT") - 4
    return png[:at] + added + png[at:]


@pytest.mark.parametrize(
    "bad",
    [b"no exif", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03"],
    ids=["no TIFF", "cut off", "cut off in an entry"],
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it says what is damaged
def test_a_good_picture_with_bad_exif_is_read_as_it_lies(bad: bytes) -> None:
    plain = content(colourful())
    read = picture_from_bytes(before_pixels(plain, chunk(b"eXIf", bad)), "x")
    assert torch.equal(read, picture_from_bytes(plain, "x"))


def test_exif_that_cannot_be_written_again_turns_the_picture_all_the_same() -> None:
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x011A, 5, 1, 38)
    minus_one_of_zero = struct.pack("<iI", -1, 0)
    exif = b"II*\0\x08\0\0\0\x02\0" + entries + bytes(4) + minus_one_of_zero
    png = before_pixels(content(colourful()), chunk(b"eXIf", exif))
    assert picture_from_bytes(png, "x").shape == (3, 40, 32)


def test_a_damaged_chunk_is_told_with_the_files_name() -> None:
    good = content(colourful())
    at = good.index(b"IDAT")
    length = int.from_bytes(good[at - 4 : at], "big")
    part = chunk(b"IDAT", good[at + 4 : at + 4 + length // 2])
    png = good[: at - 4] + part + b"\0\0\0\x04\0\x01\x02\x03" * 4 + good[-12:]
    with pytest.raises(BadFile, match=r"^x\.png can't be read as a picture: broken PNG"):
        picture_from_bytes(png, "x.png")


@pytest.mark.parametrize("error", [SyntaxError, RuntimeError, MemoryError, AttributeError])
def test_whatever_pillow_raises_the_file_is_named(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: PngImageFile) -> None:
        raise error("")

    monkeypatch.setattr(PngImageFile, "load", fail)
    with pytest.raises(BadFile, match=f"^Picture 3 can't be read as a picture: {error.__name__}"):
        picture_from_bytes(content(colourful()), "Picture 3")


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b"x" * 2_000_000)),
        chunk(b"iTXt", b"prompt\0\x01\0\0\0" + zlib.compress(b"x" * 2_000_000)),
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2_000_000))),
    ],
    ids=["zTXt", "iTXt", "iCCP"],
)
def test_a_png_with_a_long_text_is_read(text: bytes) -> None:
    plain = content(colourful())
    for sent in (before_pixels(plain, text), plain[:-12] + text + plain[-12:]):
        assert torch.equal(picture_from_bytes(sent, "x"), picture_from_bytes(plain, "x"))
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_levels_of_16_bits_are_read_and_those_of_32_refused() -> None:
    gray = Image.frombytes("I;16", (40, 40), (32768).to_bytes(2, "little") * 1600)
    for form in ("PNG", "TIFF"):
        assert float(picture_from_bytes(content(gray, form), "x").abs().max()) < 0.01
    for mode in ("I", "F"):
        with pytest.raises(BadFile, match="x has levels of 32 bits: save it with 8 or 16"):
            picture_from_bytes(content(Image.new(mode, (40, 40), 300), "TIFF"), "x")


def test_what_starts_a_program_is_not_opened() -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n"
    with pytest.raises(BadFile, match="damaged, or none of PNG, JPEG"):
        picture_from_bytes(eps, "x")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize(
    ("size", "edge"), [((1500, 1100), 1024), ((400, 3000), 400), ((1025, 1024), 1024)]
)
def test_a_large_picture_becomes_the_square_in_its_middle(
    size: tuple[int, int], edge: int, mode: str
) -> None:
    square = min(size)
    left, top = ((length - square) // 2 for length in size)
    box = (left, top, left + square, top + square)
    if mode == "I;16":
        image = Image.new(mode, size, 0)
        image.paste(65535, box)
    else:
        gray = Image.new("RGB", size, "black")
        gray.paste("white", box)
        image = gray.convert(mode)
    read = picture_from_bytes(content(image, "TIFF" if mode == "CMYK" else "PNG"), "x")
    assert read.shape == (3, edge, edge)
    assert float(read.min()) > 0.95


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA"])
def test_clear_parts_of_a_large_picture_are_white_too(mode: str) -> None:
    clear = (0,) * len(Image.new(mode, (1, 1)).getbands())
    image = Image.new(mode, (1100, 1100), clear if len(clear) > 1 else 0)
    more = {} if mode.endswith("A") else {"transparency": (0, 0, 0) if mode == "RGB" else 0}
    assert float(picture_from_bytes(content(image, **more), "x").min()) == 1


def test_a_reduced_picture_looks_like_the_large_one() -> None:
    small = colourful(16, 16)
    large = small.resize((2048, 2048), Image.Resampling.NEAREST)
    for form, options in (("PNG", {}), ("JPEG", {"quality": 100, "subsampling": 0})):
        read = picture_from_bytes(content(large, form, **options), "x")
        middles = read[:, 32::64, 32::64]
        difference = (middles - picture_from_bytes(content(small), "x")).abs()
        assert float(difference.max()) < 0.05, form


def test_a_large_photo_is_turned_upright() -> None:
    image = Image.new("RGB", (1400, 1200), "black")
    image.paste("white", (0, 0, 1400, 100))
    exif = Image.Exif()
    exif[0x0112] = 6
    read = picture_from_bytes(content(image, "JPEG", exif=exif), "x")
    assert read.shape == (3, 1024, 1024)
    assert float(read[:, :, -50:].mean()) > 0.9  # what lay on top is on the right
    assert float(read[:, :, :-120].mean()) < -0.9


def test_of_an_animation_the_first_picture_is_read() -> None:
    frames = [Image.new("RGB", (40, 32), color) for color in ("red", "blue")]
    for form in ("GIF", "WEBP", "PNG"):
        sent = content(frames[0], form, save_all=True, append_images=frames[1:])
        assert float(picture_from_bytes(sent, "x")[0].mean()) > 0.9, form


def tile_bomb() -> bytes:
    """A TIFF of 100x100 in one tile of 40000x40000."""
    values = {256: 100, 257: 100, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: 40_000}
    entries = [(tag, value) for tag, value in (values | {324: 8, 325: 1}).items()]
    ifd = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + ifd + bytes(4)


@pytest.mark.parametrize(
    "bomb",
    [
        lambda: content(Image.new("1", (8000, 8001))),
        lambda: content(Image.new("1", (65_536, 2))),
        lambda: content(Image.new("1", (2, 65_536))),
        lambda: content(Image.new("RGB", (7000, 7000)), "WEBP", lossless=True, method=0),
        tile_bomb,
    ],
    ids=["pixels", "width", "height", "webp", "tile"],
)
def test_what_would_unfold_into_gigabytes_is_refused(bomb: Callable[[], bytes]) -> None:
    with pytest.raises(BadFile, match=r"^x (is \d+x\d+; at most|has tiles of more than 64 mega)"):
        picture_from_bytes(bomb(), "x")


@pytest.mark.parametrize(
    ("form", "mode", "size"),
    [
        ("PNG", "RGB", (8000, 8000)),
        ("PNG", "RGBA", (8000, 8000)),
        ("PNG", "P", (8000, 8000)),
        ("GIF", "P", (8000, 8000)),
        ("TIFF", "RGB", (8000, 8000)),
        ("JPEG", "RGB", (8000, 8000)),
        ("WEBP", "RGBA", (8000, 6000)),
    ],
)
def test_the_largest_pictures_take_less_than_a_gigabyte(
    form: str,
    mode: str,
    size: tuple[int, int],
    tmp_path: Path,
    in_fresh_process: Callable[..., str],
) -> None:
    options = {"lossless": True, "method": 0} if form == "WEBP" else {}
    file = tmp_path / "x.png"
    Image.new(mode, size).save(file, form, **options)
    shape, _, megabytes = in_fresh_process(MEASURE, str(file)).rpartition(" ")
    assert shape == "(3, 1024, 1024)"
    assert int(megabytes) < 1000
