"""File names from what users type."""

from pathlib import Path

import pytest

from unlearn_core.errors import BadConcept
from unlearn_core.files.file_names import safe_file_name, typed_path, unused_path


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("dog", "dog"),
        ("Vincent van Gogh", "vincent-van-gogh"),
        ("  spaces  and\ttabs\n", "spaces-and-tabs"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\Windows\\win.ini", "c-windows-win-ini"),
        ('a:b*c?d"e<f>g|h', "a-b-c-d-e-f-g-h"),
        ("nul\x00byte", "nul-byte"),
        ("trailing dots...", "trailing-dots"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("CON", "con-concept"),
        ("nul", "nul-concept"),
        ("com1", "com1-concept"),
        ("COM¹", "com1-concept"),
        ("LPT9.", "lpt9-concept"),
        ("console", "console"),
        ("café", "café"),
        ("cafe\u0301", "café"),
        ("\uff26\uff35\uff2c\uff2c", "full"),
        ("犬", "犬"),
        ("हिन्दी", "हिन्दी"),
        ("🐶", "dog-face"),
        ("my ❤️ dog", "my-heavy-black-heart-dog"),
        ("right\u202eleft", "rightleft"),
        ("half \ud800 pair", "half-pair"),
    ],
)
def test_a_name_becomes_safe(name: str, safe: str) -> None:
    assert safe_file_name(name) == safe
    assert safe_file_name(safe) == safe


@pytest.mark.parametrize("name", ["", "   ", "...", "///", "___", "\u200b", "\ud800", "!?"])
def test_a_name_without_letters_is_refused(name: str) -> None:
    with pytest.raises(BadConcept, match="letters"):
        safe_file_name(name)


@pytest.mark.parametrize("letter", ["x", "é", "犬", "🐶"])
def test_a_name_of_300_characters_is_cut_and_stays_distinct(letter: str) -> None:
    one, two = safe_file_name(letter * 300), safe_file_name(letter * 301)
    assert len(one.encode()) <= 80
    assert one != two


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    assert unused_path(tmp_path, "dog").name == "dog.safetensors"
    (tmp_path / "dog.safetensors").touch()
    (tmp_path / "dog-2.safetensors").touch()
    assert unused_path(tmp_path, "dog").name == "dog-3.safetensors"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("~/a/b", "{home}/a/b"),
        ("~", "{home}"),
        ("a/~/b", "a/~/b"),
        ("a~", "a~"),
        ("~nobody-has-this-name/a", "~nobody-has-this-name/a"),
        ("", "."),
    ],
)
def test_a_tilde_at_the_start_is_the_users_own_folder(
    typed: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert typed_path(typed) == Path(meant.replace("{home}", str(tmp_path)))
