"""No text is read or written in the encoding of the locale, which on Windows is not UTF-8.

ruff's PLW1514 knows a Path only where its type is plain to see.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HIDDEN = (".git", ".venv", ".venv-oldest", ".hosts", "out")
NOT_TEXT = ("Image", "choice", "os", "tarfile")
"""Whose `open` opens no text file."""


def says_no_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text in whatever encoding the locale has."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    named = {word.arg for word in call.keywords}
    if "encoding" in named:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) <= (name == "write_text")
    if name in ("run", "Popen", "check_output"):
        return bool(named & {"text", "universal_newlines"})
    opener = ast.unparse(call.func).rpartition(".")[0]
    if name not in ("open", "fdopen") or (name == "open" and opener in NOT_TEXT):
        return False
    modes = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
    return not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)


def places(folder: Path) -> Iterator[str]:
    for file in sorted(folder.rglob("*.py")):
        inside = file.relative_to(folder)
        if inside.parts[0] in HIDDEN:
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and says_no_encoding(node):
                yield f"{inside}:{node.lineno}: {ast.unparse(node)[:80]}"


def test_every_text_is_read_and_written_in_a_named_encoding(root: Path) -> None:
    assert list(places(root)) == []


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("path.read_text()", True),
        ('path.read_text("utf-8")', False),
        ("(folder / name).write_text(text)", True),
        ('path.write_text(text, encoding="utf-8")', False),
        ("path.open()", True),
        ('open(path, "w")', True),
        ('open(path, mode="rb")', False),
        ('os.fdopen(writer, "w")', True),
        ("Image.open(path)", False),
        ("subprocess.run(command, text=True)", True),
        ('subprocess.run(command, encoding="utf-8")', False),
    ],
)
def test_a_call_without_an_encoding_is_found(call: str, found: bool, tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(call, "utf-8")
    assert bool(list(places(tmp_path))) is found
