"""What the tab and the API may ask for, and what is refused in which words."""

import base64
import dataclasses
import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from unlearn_core.concept import Nameless
from unlearn_core.errors import BadConcept, BadFile, BadSettings, UnlearnError
from unlearn_core.files.pictures import MOST_PICTURES
from unlearn_core.settings import PRESETS
from unlearn_webui import uploads
from unlearn_webui.request import MOST_TYPED, TUNABLE, ForgetRequest, typed_number
from unlearn_webui.uploads import MOST_BYTES, pictures_from_base64, pictures_from_files


def png(size: tuple[int, int] = (40, 32), color: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def coded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_the_first_name_is_the_concept_and_the_others_are_synonyms() -> None:
    concept = ForgetRequest("Van Gogh, vincent,(starry night:1.2) ", kind="style").concept
    assert concept.names == ("Van Gogh", "vincent", "starry night")
    assert concept.kind == "style"


@pytest.mark.parametrize("content", [{}, {"names": ""}, {"names": " "}])
def test_pictures_can_come_without_a_name(content: dict[str, str]) -> None:
    request = ForgetRequest.from_json({**content, "pictures": [coded(png())], "keep": "cat"})
    assert isinstance(request.concept, Nameless)
    assert request.concept.keep == ("cat",)
    assert len(request.concept.images) == 1


def test_what_is_not_set_is_the_presets() -> None:
    assert ForgetRequest("dog", preset="robust").settings == PRESETS["robust"]
    changed = ForgetRequest("dog", preset="robust", steps=7, layers="all", forget_weight=2.5)
    assert changed.settings == PRESETS["robust"].replace(steps=7, layers="all", forget_weight=2.5)


def test_json_and_the_tab_give_the_same_request() -> None:
    content = {"names": "dog", "keep": "cat, wolf", "seed": 3, "pictures": [coded(png())]}
    request = ForgetRequest.from_json(content, first_preset="robust")
    assert request.concept.keep == ("cat", "wolf")
    assert request.settings == PRESETS["robust"].replace(seed=3)
    assert torch.equal(request.pictures[0], pictures_from_base64([coded(png())])[0])


def test_a_preset_in_the_json_goes_before_the_settings_page() -> None:
    request = ForgetRequest.from_json({"names": "dog", "preset": "quick"}, first_preset="robust")
    assert request.preset == "quick"


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ([], BadSettings, "JSON object"),
        ({}, BadConcept, "no name and no picture"),
        ({"names": " , "}, BadConcept, "has no letter or digit"),
        ({"kind": "style"}, BadConcept, "4 or 5 pictures"),
        ({"names": ["dog"]}, BadSettings, "names is"),
        ({"names": "dog", "path": "/etc"}, BadSettings, "Unknown: path"),
        ({"names": "dog", "out": "x", "model": "y"}, BadSettings, "Unknown: model, out"),
        ({"names": "dog", "kind": "animal"}, BadConcept, "Unknown kind"),
        ({"names": "dog", "covers": "all"}, BadConcept, "covers is 'all'"),
        ({"names": "dog", "kind": 3}, BadSettings, "kind is 3"),
        ({"names": "dog", "preset": "fast"}, BadSettings, "Unknown preset"),
        ({"names": "dog", "preset": ["quick"]}, BadSettings, "preset is"),
        ({"names": "dog", "stand_in": "dog"}, BadConcept, "the concept itself"),
        ({"names": "dog", "keep": "dog"}, BadConcept, "forgotten and kept"),
        ({"names": "dog", "steps": -1}, BadSettings, "steps is -1"),
        ({"names": "dog", "steps": "7"}, BadSettings, "steps is '7'"),
        ({"names": "dog", "seed": 1.5}, BadSettings, "seed is 1.5"),
        ({"names": "dog", "rank": True}, BadSettings, "rank is True"),
        ({"names": "dog", "layers": "../../etc"}, BadSettings, "layers is"),
        ({"names": "dog", "forget_weight": float("nan")}, BadSettings, "forget_weight"),
        ({"names": "dog", "forget_weight": 0}, None, ""),
        ({"names": "dog", "private": 1}, BadSettings, "private is 1"),
        ({"names": "dog", "measure": None}, BadSettings, "measure is None"),
        ({"names": "dog", "pictures": "x"}, BadConcept, "list of strings"),
        ({"names": "dog", "pictures": [1]}, BadConcept, "list of strings"),
        ({"names": "dog", "pictures": ["/etc/passwd"]}, BadFile, "Picture 1"),
        ({"names": "dog", "pictures": ["http://x/y.png"]}, BadFile, "not base64"),
        ({"names": "dog", "pictures": ["aGVsbG8="]}, BadFile, "can't be read as a picture"),
        ({"names": "dog", "pictures": [coded(png((8, 8)))]}, BadConcept, "at least 32"),
        ({"names": "dog", "pictures": [coded(png()[:60])]}, BadFile, "Picture 1"),
        ({"names": "dog", "save_embedding": True}, BadSettings, "embedding"),
        ({"names": "dog", "pictures": ["\u00e9"]}, BadFile, "not base64"),
        ({"names": "dog", "steps": [7]}, BadSettings, "steps is a list"),
        ({"names": "dog", "seed": 2**64}, BadSettings, "beyond all bounds"),
        ({"names": "dog", "seed": 10**5000}, BadSettings, "beyond all bounds"),
        ({"names": "\udcff"}, BadSettings, "names holds half of a character"),
        ({"names": "x" * (MOST_TYPED + 1)}, BadSettings, "names has 25601 letters"),
        ({"names": "dog", "keep": "a," * MOST_TYPED}, BadSettings, "keep has 51200 letters"),
        ({"names": "dog", "preset": "x" * MOST_TYPED * 2}, BadSettings, "preset has"),
    ],
)
def test_hostile_and_mistaken_json_is_refused_in_words(
    content: Any, error: type[UnlearnError] | None, words: str
) -> None:
    if error is None:
        ForgetRequest.from_json(content)
        return
    with pytest.raises(error, match=words):
        ForgetRequest.from_json(content)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "", None),
        ("steps", "  ", None),
        ("steps", " 7 ", 7),
        ("forget_weight", "2.5", 2.5),
    ],
)
def test_an_empty_field_of_the_tab_leaves_the_presets_value(
    name: str, text: str, value: float | None
) -> None:
    assert typed_number(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("steps", "many", "'many'; write a whole"),
        ("rank", "1.5", "whole"),
        ("forget_weight", "x", "a number"),
    ],
)
def test_what_is_no_number_is_refused_in_words(name: str, text: str, words: str) -> None:
    with pytest.raises(BadSettings, match=words):
        typed_number(name, text)


def test_the_tunable_settings_are_settings() -> None:
    assert set(TUNABLE) <= set(PRESETS["balanced"].as_dict())


def test_the_embedding_needs_a_preset_that_learns() -> None:
    pictures = pictures_from_base64([coded(png())])
    assert ForgetRequest("dog", pictures, save_embedding=True).save_embedding
    with pytest.raises(BadSettings, match="balanced or robust"):
        ForgetRequest("dog", pictures, preset="quick", save_embedding=True)


def test_more_than_64_pictures_are_refused_unread() -> None:
    with pytest.raises(BadConcept, match="65 pictures"):
        pictures_from_base64(["not read"] * (MOST_PICTURES + 1))
    with pytest.raises(BadConcept, match="65 pictures"):
        pictures_from_files([Path("not read")] * (MOST_PICTURES + 1))


def test_a_file_above_20_mb_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    with file.open("wb") as large:
        large.truncate(MOST_BYTES + 1)
    with pytest.raises(BadFile, match=r"large\.png has 20 MB"):
        pictures_from_files([file])
    with pytest.raises(BadFile, match="Picture 1 has"):
        pictures_from_base64(["A" * (MOST_BYTES * 4 // 3 + 8)])


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"gone\.png can't be read"):
        pictures_from_files([tmp_path / "gone.png"])


def test_a_data_url_and_a_file_give_the_same_picture(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png())
    (read,) = pictures_from_files([file])
    (sent,) = pictures_from_base64([f"data:image/png;base64,{coded(png())}"])
    assert torch.equal(read, sent)
    assert read.shape == (3, 32, 40)


def test_a_large_picture_becomes_a_square_at_once(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    file.write_bytes(png((1500, 1100)))
    (picture,) = pictures_from_files([file])
    assert picture.shape == (3, 1024, 1024)
    file.write_bytes(png((3000, 400)))
    (narrow,) = pictures_from_files([file])
    assert narrow.shape == (3, 400, 400)


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    file = tmp_path / "clear.png"
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(file)
    (picture,) = pictures_from_files([file])
    assert float(picture.min()) == 1.0


def test_base64_may_be_wrapped_and_lack_its_padding() -> None:
    sent = png() + b"\0" * (-len(png()) % 3 + 1)  # a length that needs padding
    (plain,) = pictures_from_base64([coded(sent)])
    assert coded(sent).endswith("=")
    for text in (
        base64.encodebytes(sent).decode(),
        coded(sent).rstrip("="),
        f"data:image/png;base64,\r\n {coded(sent).rstrip('=')}\r\n",
    ):
        assert torch.equal(pictures_from_base64([text])[0], plain)


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"keep": "dog"}, {"layers": "x"}, {"seed": "1"}])
def test_pictures_are_decoded_when_all_else_is_right(
    wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"names": "dog", "pictures": [coded(png())]}
    monkeypatch.setattr(uploads, "picture_from_bytes", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(base64, "b64decode", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(UnlearnError):
        ForgetRequest.from_json({**content, **wrong})


def test_pictures_that_the_preset_leaves_out_are_checked_and_not_held() -> None:
    content = {"names": "dog", "preset": "quick", "pictures": [coded(png())]}
    (outline,) = ForgetRequest.from_json(content).pictures
    assert outline.shape == (3, 32, 40)
    assert outline.untyped_storage().nbytes() == 4
    with pytest.raises(BadFile, match="Picture 2"):
        ForgetRequest.from_json({**content, "pictures": [coded(png()), "AAAA"]})
    (kept,) = ForgetRequest.from_json({**content, "names": ""}).pictures  # its word is looked for
    assert kept.untyped_storage().nbytes() > 4


ODD = (
    None, True, False, 0, -1, 1.5, float("nan"), float("inf"), 2**63, -(2**70), 10**5000, "", "dog",
    "a, b", ",", "\udcff", "\0", "x" * 30_000, "((" * 50, "dog" * 500, "\U0001f436" * 30, "1",
    "data:", "====", "AAAA", "\u00e9", "quick", "all", "last:3", "99999-0", "-", "object",
)  # fmt: skip


def odd(draws: random.Random, depth: int = 0) -> Any:
    """Any JSON."""
    kind = draws.randrange(12)
    if kind < 9 or depth > 3:
        return draws.choice(ODD)
    if kind < 11:
        return [odd(draws, depth + 1) for _ in range(draws.randrange(4))]
    return {str(i): odd(draws, depth + 1) for i in range(draws.randrange(3))}


def test_any_json_is_a_request_or_refused_in_a_short_message() -> None:
    draws = random.Random(0)
    fields = [item.name for item in dataclasses.fields(ForgetRequest)]
    taken, lengths = 0, []
    for _ in range(500):
        content = {name: odd(draws) for name in draws.sample(fields, draws.randrange(1, 5))}
        if draws.random() < 0.5:
            content["names"] = "dog"
        try:
            ForgetRequest.from_json(content if draws.random() < 0.95 else odd(draws))
            taken += 1
        except UnlearnError as error:
            lengths.append(len(str(error)))
    assert 5 < taken < 250
    assert 10 < min(lengths) <= max(lengths) <= 2000
