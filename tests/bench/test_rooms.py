"""The rooms of bench/: small, and each imports only from those before it."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOMS = (
    "emoji_canvas",  # the demo's world
    "protocol",  # what is drawn and judged
    "rivals",
    "methods",  # ours, and all of them by name
    "attacks",
    "jobs",  # a run
    "report",  # what its rows say
    "demo_cost",
    "cost",
    "trials",
    "verify",  # a page for one LoRA
    "emoji_canvas.training",
    "emoji_canvas.families",
)
"""From the bottom up."""
MOST_FILES = 10
"""In a room, beside its `__init__.py`."""
BENCH = Path(__file__).resolve().parents[2] / "bench"
COMMAND = BENCH / "__main__.py"
FILES = {
    ".".join(file.relative_to(BENCH).with_suffix("").parts): file
    for file in BENCH.rglob("*.py")
    if file.name != "__init__.py" and file != COMMAND
}


def room_of(module: str) -> str:
    """The room of "jobs.plan" or, of an import from a room itself, of "jobs"."""
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len)


def imported(file: Path) -> set[str]:
    """What of bench a file imports, inside of functions too: "jobs.plan" or "attacks"."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or file.name == "__init__.py", f"{file}: a relative import"
            module = node.module or ""
            names = [
                f"{module}.{alias.name}" if f"{module}.{alias.name}"[6:] in FILES else module
                for alias in node.names
            ]
        found |= {name[6:] for name in names if name.startswith("bench.")}
    return found


def test_every_file_lies_in_a_room_and_no_room_is_empty() -> None:
    folders = {module.rpartition(".")[0] for module in FILES}
    assert folders == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_few_files(room: str) -> None:
    files = [module for module in FILES if module.rpartition(".")[0] == room]
    assert len(files) <= MOST_FILES


def test_no_room_imports_one_above_it() -> None:
    upwards = [
        f"{module} imports {other}"
        for module, file in FILES.items()
        for other in imported(file)
        if ROOMS.index(room_of(other)) > ROOMS.index(room_of(module))
    ]
    assert upwards == []


def test_no_files_import_each_other_in_a_circle() -> None:
    sorter = TopologicalSorter({module: imported(file) for module, file in FILES.items()})
    assert set(FILES) <= set(sorter.static_order())  # raises CycleError where there is a circle
