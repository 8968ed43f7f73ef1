"""Rules for the extension's files that no linter knows."""

import ast
from collections.abc import Iterator
from pathlib import Path

HEAVY = {"transformers", "peft", "diffusers"}


def imports(file: Path, top_level_only: bool = False) -> Iterator[str]:
    """The first name of each absolute import."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]


def extension_files(root: Path) -> list[Path]:
    return sorted((root / "unlearn_webui").rglob("*.py"))


def test_only_host_files_name_the_hosts_modules(root: Path) -> None:
    naming = {
        str(file.relative_to(root / "unlearn_webui"))
        for file in extension_files(root)
        if "modules" in set(imports(file))
    }
    assert naming
    assert all(name.startswith("host") or name == "callbacks.py" for name in naming)


def test_the_door_names_no_host(root: Path) -> None:
    assert set(imports(root / "scripts" / "unlearn_tab.py")) == {
        "logging", "pathlib", "unlearn_core", "unlearn_webui",
    }  # fmt: skip


def test_loading_the_extension_imports_nothing_heavy(root: Path) -> None:
    for file in extension_files(root):
        assert not HEAVY & set(imports(file, top_level_only=True)), file.name


def test_neither_side_imports_the_other_hosts_pack(root: Path) -> None:
    for file in extension_files(root):
        assert not {"nodes", "comfy", "comfy_api", "scripts", "tests"} & set(imports(file))


def test_the_pages_script_calls_what_the_tab_calls(root: Path) -> None:
    script = (root / "javascript" / "unlearn.js").read_text("utf-8")
    tab = (root / "unlearn_webui" / "tab.py").read_text("utf-8")
    for name in ("unlearnForget", "unlearnStop", "unlearnSend"):
        assert f"function {name}(" in script
        assert name in tab
