"""Rules of the repository that no linter knows."""

import ast
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HEAVY = ("transformers", "peft", "diffusers", "ray")
ENGINE_MAY_IMPORT = {
    *sys.stdlib_module_names,
    *("torch", "numpy", "PIL", "safetensors", "tokenizers", "transformers", "peft", "diffusers"),
    *("filelock", "tqdm", "ray"),
}
MOST_LINES, MOST_OF_A_FUNCTION = 250, 60
NOT_SHIPPED = {"tests", "bench", "out", ".venv", ".venv-oldest", ".hosts", ".git"}

LOAD_AS_COMFYUI = """
import importlib.util, os, sys
folder = sys.argv[1]
name = folder.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, os.path.join(folder, "__init__.py"))
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
"""
PRINT_HEAVY = f"import sys; print([name for name in {HEAVY} if name in sys.modules])"


def shipped_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_SHIPPED]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def imported_names(file: Path) -> Iterator[tuple[int, str]]:
    """The dots and the first name of each import: `from .x import y` is (1, "x")."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, (node.module or "").split(".")[0]


def test_comfyui_can_load_the_pack_without_anything_heavy(
    root: Path, tmp_path: Path, in_fresh_process: Callable[..., str]
) -> None:
    pack = tmp_path / "sd-unlearn-0.1.0"  # dashes and dots, as folders in custom_nodes have
    skipped = shutil.ignore_patterns(".*", "demo", *NOT_SHIPPED, "__pycache__")
    shutil.copytree(root, pack, ignore=skipped)
    assert in_fresh_process(LOAD_AS_COMFYUI + PRINT_HEAVY, str(pack)).strip() == "[]"


def test_importing_the_engine_imports_nothing_heavy(in_fresh_process: Callable[..., str]) -> None:
    assert in_fresh_process("import unlearn_core\n" + PRINT_HEAVY).strip() == "[]"


def test_engine_imports_itself_relatively_and_no_host(root: Path) -> None:
    wrong = [
        f"{file.name}: {'.' * dots}{name}"
        for file in (root / "unlearn_core").rglob("*.py")
        for dots, name in imported_names(file)
        if dots > 2 or (dots == 0 and name not in ENGINE_MAY_IMPORT)
    ]
    assert wrong == []


def test_no_file_is_long(root: Path) -> None:
    lengths = {
        str(file.relative_to(root)): len(file.read_text("utf-8").splitlines())
        for folder in ("unlearn_core", "nodes", "unlearn_webui", "bench")
        for file in (root / folder).rglob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_no_function_of_the_engine_is_long(root: Path) -> None:
    lengths = {
        f"{file.name}: {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for file in (root / "unlearn_core").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_OF_A_FUNCTION} == {}


@pytest.mark.parametrize(
    "pattern",
    [r"\beval\(", r"\bexec\(", r"import pickle|pickle\.\w", "weights_only=False", "shell=True"],
)
def test_shipped_code_has_nothing_that_registry_scanners_stop_at(root: Path, pattern: str) -> None:
    found = [
        f"{file.relative_to(root)}: {line.strip()}"
        for file in shipped_files(root)
        for line in file.read_text("utf-8").splitlines()
        if re.search(pattern, line)
    ]
    assert found == []


def test_folders_that_hosts_also_have_are_no_packages(root: Path) -> None:
    for name in ("nodes", "scripts", "tests"):
        assert not (root / name / "__init__.py").exists()


def test_peft_is_asked_for_alike_everywhere(root: Path) -> None:
    requirements = (root / "requirements.txt").read_text("utf-8")
    lines = [line for line in requirements.splitlines() if line and not line.startswith("#")]
    project = (root / "pyproject.toml").read_text("utf-8")
    listed = re.search(r"^dependencies = \[(.*)\]$", project, re.MULTILINE)
    assert listed is not None
    assert re.findall(r'"([^"]+)"', listed[1]) == lines


def test_pre_commit_uses_the_pinned_ruff(root: Path) -> None:
    pinned = re.search(
        r"^ruff==\S+$", (root / "requirements-test.txt").read_text("utf-8"), re.MULTILINE
    )
    assert pinned is not None
    hooks = (root / ".pre-commit-config.yaml").read_text("utf-8")
    assert set(re.findall(r"ruff==[\d.]+", hooks)) == {pinned[0]}
