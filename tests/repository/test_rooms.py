"""The engine's rooms: who may import whom, and how much a room may hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FLOORS = (
    "errors", "settings", "progress", "files", "text", "names", "concept", "models", "loaders",
    "words", "lora", "training", "forgetting", "unet_lora", "measuring", "reporting", "cli",
)  # fmt: skip
"""Rooms and single files from the bottom up: each imports what stands before it, and itself."""
DOORS = ("__init__", "__main__")
MOST_FILES = 10
MOST_FILES_AT_THE_TOP = 8


def room_of(path: Path, engine: Path) -> str:
    return path.relative_to(engine).parts[0].removesuffix(".py")


def imported_rooms(path: Path, engine: Path) -> Iterator[str]:
    """The rooms and single files that a file names, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1]
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                yield room_of(base.joinpath(*name.split(".")), engine)


def arrows_upwards(engine: Path) -> list[str]:
    return [
        f"{path.relative_to(engine)} imports {other}"
        for path in sorted(engine.rglob("*.py"))
        for other in imported_rooms(path, engine)
        if (room := room_of(path, engine)) not in DOORS and FLOORS.index(other) > FLOORS.index(room)
    ]


def test_no_room_imports_a_room_above_it(root: Path) -> None:
    assert arrows_upwards(root / "unlearn_core") == []


@pytest.mark.parametrize(
    "line", ["from ..cli.parser import x", "from .. import concept", "    from ..training import x"]
)
def test_an_arrow_upwards_is_seen(tmp_path: Path, line: str) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "pictures.py").write_text(
        f"if True:\n    pass\n{line.strip()}\n", "utf-8"
    )
    assert len(arrows_upwards(tmp_path)) == 1


def test_files_of_a_room_do_not_import_each_other_in_a_circle(root: Path) -> None:
    engine = root / "unlearn_core"
    arrows = {path: set(imported_files(path)) for path in engine.rglob("*.py")}
    while free := [path for path, others in arrows.items() if not others & arrows.keys()]:
        for path in free:
            del arrows[path]
    assert sorted(str(path.relative_to(engine)) for path in arrows) == []


def imported_files(path: Path) -> Iterator[Path]:
    """The files that a file imports when it is imported; not what a function imports later."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1]
            named = base.joinpath(*(node.module or "").split("."))
            yield named.with_suffix(".py")
            yield from (named / f"{alias.name}.py" for alias in node.names)


def test_rooms_are_small(root: Path) -> None:
    engine = root / "unlearn_core"
    counts = {room: len(list((engine / room).glob("*.py"))) for room in FLOORS}
    assert {room: count for room, count in counts.items() if count > MOST_FILES} == {}
    assert len(list(engine.glob("*.py"))) <= MOST_FILES_AT_THE_TOP


def test_one_module_alone_names_comfyuis_node_api(root: Path) -> None:
    files = (root / "nodes").glob("*.py")
    naming = [file.name for file in files if "comfy_api" in file.read_text("utf-8")]
    assert naming == ["node_api.py"]
