"""The pack as the Comfy registry takes it and hands it out, made by comfy-cli itself."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from host_install import ROOT, install_once
from PIL import Image

import install

COMFY_CLI = (
    "comfy-cli==1.23.0", "typer==0.29.2", "click==8.5.1", "rich==15.0.0", "tomlkit==0.15.2",
    "pathspec==1.1.1", "questionary==2.1.1", "prompt_toolkit==3.0.53", "semver==3.0.4",
    "shellingham==1.5.4",
)  # fmt: skip
"""What `comfy node` needs of what comfy-cli asks for, which has an ffmpeg and would be 90 MB."""
WORKFLOW = ROOT / ".github/workflows/publish.yml"
CODE = ("__init__.py", "nodes", "unlearn_core")
DATA = (
    "demo/model", "example_workflows", "locales", "subgraphs", "web", "requirements.txt", "LICENSE",
)  # fmt: skip
FORBIDDEN = {"eval", "exec", "subprocess", "system", "popen", "pip"}


def project() -> str:
    return (ROOT / "pyproject.toml").read_text("utf-8")


def picture(key: str) -> Path:
    """The file behind an address of pyproject.toml."""
    found = re.search(rf'^{key} = "ADDRESS/raw/HEAD/(.+)"$', project(), re.MULTILINE)
    assert found is not None
    return ROOT / found[1]


def test_the_registrys_pictures_have_the_sizes_it_asks_for() -> None:
    icon, banner = (Image.open(picture(key)) for key in ("Icon", "Banner"))
    assert icon.width == icon.height <= 400
    assert banner.width * 9 == banner.height * 21
    assert max(picture(key).stat().st_size for key in ("Icon", "Banner")) <= 60_000


def test_the_guides_name_the_pack_as_the_registry_does() -> None:
    name, shown = (
        re.search(rf'^{key} = "(.+)"$', project(), re.MULTILINE) for key in ("name", "DisplayName")
    )
    assert name is not None
    assert shown is not None
    for guide in ("README.md", "docs/comfyui.md"):
        text = (ROOT / guide).read_text("utf-8")
        assert f"comfy node install {name[1]}`" in text
        assert f"*{shown[1]}*" in text.replace("\n", " ")


def test_no_message_of_the_pack_names_a_file_that_it_lacks() -> None:
    """install.py stays behind."""
    named = [
        str(file.relative_to(ROOT))
        for folder in ("nodes", "unlearn_core")
        for file in (ROOT / folder).rglob("*.py")
        if "install.py" in file.read_text("utf-8")
    ]
    assert named == []


@pytest.fixture(scope="module")
def comfy_cli() -> Path:
    """A folder with comfy-cli, to be put on the path."""
    home = ROOT / ".hosts" / "comfy-cli"

    def fill() -> None:
        options = ["--no-deps", "--no-compile", "--only-binary", ":all:", "--target", str(home)]
        process = install.pip(sys.executable, "install", *options, *COMFY_CLI)
        assert process.returncode == 0, process.stderr

    install_once(home, " ".join(COMFY_CLI), "comfy-cli", fill, 6)
    return home


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git knows of this checkout, as the workflow hands it to comfy-cli."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("comfy-cli packs what git knows: this is no git checkout")
    folder = tmp_path_factory.mktemp("registry")
    git = ["git", "-C", str(ROOT), "ls-files", "-z"]
    names = subprocess.run(git, capture_output=True, check=True, encoding="utf-8").stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for arguments in (["init", "-q"], ["add", "-A", "-f"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    [line] = re.findall(r"run: (sed .+)", WORKFLOW.read_text("utf-8"))
    address = {
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_REPOSITORY": "somebody/sd-unlearn",
    }
    subprocess.run(["bash", "-c", line], cwd=folder, env={**os.environ, **address}, check=True)
    return folder


def comfy_node(command: str, checkout: Path, comfy_cli: Path) -> str:
    """What `comfy node COMMAND` says."""
    environment = {
        **os.environ, "PYTHONPATH": str(comfy_cli), "HOME": str(comfy_cli), "DO_NOT_TRACK": "1",
        "PYTHONIOENCODING": "utf-8",
    }  # fmt: skip
    process = subprocess.run(
        [sys.executable, "-m", "comfy_cli", "--skip-prompt", "node", command],
        cwd=checkout, env=environment, capture_output=True, encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout + process.stderr


@pytest.fixture(scope="module")
def pack(checkout: Path, comfy_cli: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user of the registry gets, unpacked."""
    comfy_node("pack", checkout, comfy_cli)
    folder = tmp_path_factory.mktemp("pack")
    with zipfile.ZipFile(checkout / "node.zip") as file:
        file.extractall(folder)
    return folder


def names_used(file: Path) -> Iterator[str]:
    """What a file imports, and what it calls by a plain or dotted name."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call):
            yield ast.unparse(node.func).rpartition(".")[2]


@pytest.mark.host
def test_comfy_cli_finds_nothing_to_complain_about(checkout: Path, comfy_cli: Path) -> None:
    said = comfy_node("validate", checkout, comfy_cli)
    assert "All validation checks passed" in said
    assert "arning" not in said


@pytest.mark.host
def test_the_addresses_lead_to_the_repository_that_publishes(pack: Path) -> None:
    text = (pack / "pyproject.toml").read_text("utf-8")
    urls = re.findall(r'^(Repository|Icon|Banner) = "(.+)"$', text, re.MULTILINE)
    assert len(urls) == 3
    assert all(url.startswith("https://github.com/somebody/sd-unlearn") for _, url in urls)


@pytest.mark.host
def test_the_pack_has_everything_that_comfyui_needs(pack: Path) -> None:
    for name in (*CODE, *DATA):
        wanted = [ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*")
        for file in wanted:
            if file.is_file() and "__pycache__" not in file.parts:
                assert (pack / file.relative_to(ROOT)).is_file(), file


@pytest.mark.host
def test_nothing_in_the_pack_installs_starts_or_evaluates_anything(pack: Path) -> None:
    files = sorted(pack.rglob("*.py"))
    assert {file.relative_to(pack).parts[0] for file in files} == set(CODE)
    found = [(file.name, name) for file in files for name in names_used(file) if name in FORBIDDEN]
    assert found == []
