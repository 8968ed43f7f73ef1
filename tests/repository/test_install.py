"""install.py as hosts and people run it: in processes, against small made-up Pythons, offline."""

import json
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

import install

# Stands in for pip: notes what it was asked for and "installs" a peft that can be imported or not.
STUB_PIP = """
import json, pathlib, sys
here = pathlib.Path(__file__).parents[1]
with (here / "asked.jsonl").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if (here / "pip_fails").exists():
    sys.exit((here / "pip_fails").read_text())
wish = next(word for word in sys.argv if word.startswith("peft"))
version = wish.partition("==")[2] or "0.21.2"
for old in here.glob("peft-*"):
    (old / "METADATA").unlink()
    old.rmdir()
folder = here / f"peft-{version}.dist-info"
folder.mkdir()
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: peft\\nVersion: {version}\\n")
(here / "peft.py").write_text("import newer" if (here / f"breaks-{version}").exists() else "")
"""


class Host:
    """An empty Python with a stub for pip and the packages of some host."""

    def __init__(self, folder: Path, **packages: str) -> None:
        venv.create(folder, symlinks=sys.platform != "win32")
        windows = sys.platform == "win32"
        self.python = folder / ("Scripts/python.exe" if windows else "bin/python")
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        found = subprocess.run([self.python, "-c", code], capture_output=True, encoding="utf-8")
        self.packages = Path(found.stdout.strip())
        (self.packages / "pip").mkdir()
        (self.packages / "pip/__main__.py").write_text(STUB_PIP, "utf-8")
        for name, version in packages.items():
            self.add(name, version)

    def add(self, name: str, version: str) -> None:
        folder = self.packages / f"{name}-{version}.dist-info"
        folder.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (folder / "METADATA").write_text(metadata, "utf-8")

    def start(self, **variables: str) -> str:
        """Run install.py as a host does when it starts; return its only line."""
        process = subprocess.run(
            [str(self.python), str(install.ROOT / "install.py")],
            env={**os.environ, **variables},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
        )
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""
        lines = process.stdout.splitlines()
        assert len(lines) == 1, lines
        return lines[0].removeprefix("sd-unlearn: ")

    def asked(self) -> list[list[str]]:
        """What pip was asked to install, call by call, options aside."""
        notes = self.packages / "asked.jsonl"
        calls = (
            [json.loads(line) for line in notes.read_text("utf-8").splitlines()]
            if notes.exists()
            else []
        )
        assert all(call[:2] == ["install", "--no-deps"] for call in calls)
        return [[word for word in call[1:] if not word.startswith("-")] for call in calls]


A1111 = {"torch": "2.1.2", "transformers": "4.30.2", "accelerate": "0.21.0"}
FORGE = {"torch": "2.3.1", "transformers": "4.46.1", "accelerate": "0.31.0"}
COMFYUI = {"torch": "2.13.0+cpu", "transformers": "5.23.0", "accelerate": "1.15.0"}


def test_a_python_without_torch_is_told_so_and_left_alone_twice(tmp_path: Path) -> None:
    host = Host(tmp_path)
    before = sorted(host.packages.rglob("*"))
    for _ in range(2):
        line = host.start()
        assert "torch, transformers, accelerate" in line
        assert "nothing installed" in line
    assert host.asked() == []
    assert sorted(host.packages.rglob("*")) == before


@pytest.mark.parametrize(
    ("packages", "wish"),
    [
        pytest.param(A1111, "peft==0.13.2", id="A1111"),
        pytest.param(FORGE, "peft==0.13.2", id="Forge"),
        pytest.param({**COMFYUI, "accelerate": "0.31.0"}, "peft==0.13.2", id="old accelerate"),
        pytest.param(COMFYUI, install.peft_requirement(), id="ComfyUI"),
    ],
)
def test_a_host_gets_the_peft_that_fits_and_only_once(
    packages: dict[str, str], wish: str, tmp_path: Path
) -> None:
    host = Host(tmp_path, **packages)
    assert host.start().startswith("installed peft")
    assert host.start().startswith("nothing to install")
    assert host.asked() == [[wish]]


@pytest.mark.parametrize("version", ["0.13.2", "0.14.0", "0.21.2"])
def test_a_peft_that_works_is_kept(version: str, tmp_path: Path) -> None:
    host = Host(tmp_path, **A1111, peft=version)
    (host.packages / "peft.py").write_text("", "utf-8")
    assert host.start() == f"nothing to install, peft {version} is here"
    assert host.asked() == []


@pytest.mark.parametrize(
    ("packages", "version"),
    [
        pytest.param(COMFYUI, "0.12.0", id="too old"),
        pytest.param(COMFYUI, "0.17.1", id="left out of the range"),
        pytest.param(FORGE, "0.21.2", id="too new for this host"),
    ],
)
def test_a_peft_that_cannot_work_is_replaced(
    packages: dict[str, str], version: str, tmp_path: Path
) -> None:
    host = Host(tmp_path, **packages, peft=version)
    assert f"(was: {version})" in host.start()
    assert host.start().startswith("nothing to install")


def test_a_newest_peft_that_breaks_gives_way_to_the_safe_one(tmp_path: Path) -> None:
    host = Host(tmp_path, **COMFYUI)
    (host.packages / "breaks-0.21.2").touch()
    assert host.start().startswith("installed peft 0.13.2")
    assert host.asked() == [[install.peft_requirement()], ["peft==0.13.2"]]


def test_a_peft_out_of_the_range_stays_where_it_can_be_imported(tmp_path: Path) -> None:
    host = Host(tmp_path, **COMFYUI, peft="0.17.1")
    (host.packages / "peft.py").write_text("", "utf-8")
    assert host.start() == "nothing to install, peft 0.17.1 is here"
    assert host.asked() == []


def test_a_failing_pip_stops_no_host(tmp_path: Path) -> None:
    host = Host(tmp_path, **COMFYUI)
    (host.packages / "pip_fails").write_text("ERROR: no version\nERROR: no network", "utf-8")
    assert host.start() == f"could not install {install.peft_requirement()}: ERROR: no network"


def test_packages_that_are_read_only_are_named(tmp_path: Path) -> None:
    host = Host(tmp_path, **COMFYUI)
    said = "ERROR: Permission denied: 'site-packages/peft'\nCheck the permissions."
    (host.packages / "pip_fails").write_text(said, "utf-8")
    assert host.start().endswith(said.replace("\n", " "))


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for uv is a shell script")
def test_a_python_without_pip_is_filled_by_uv(tmp_path: Path) -> None:
    host = Host(tmp_path / "host", **COMFYUI)
    stub = (host.packages / "pip").rename(host.packages / "no_pip")
    uv = tmp_path / "uv"
    uv.write_text(f'#!/bin/sh\nexec "{host.python}" "{stub}" "$@"\n', "utf-8")
    uv.chmod(0o755)
    assert host.start(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}").startswith("installed")
    asked = json.loads((host.packages / "asked.jsonl").read_text("utf-8"))
    assert asked[:2] == ["pip", "install"]
    assert asked[asked.index("--python") + 1] == str(host.python)
    assert asked[-2:] == ["--no-deps", install.peft_requirement()]


def test_a_python_with_neither_pip_nor_uv_stops_no_host(tmp_path: Path) -> None:
    host = Host(tmp_path, **COMFYUI)
    shutil.rmtree(host.packages / "pip")
    assert "has no pip, and there is no uv" in host.start(PATH="", UV="")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that needs no package; its demo prints its arguments and exits with 7."""
    folder = tmp_path / "a checkout"
    (folder / "unlearn_core").mkdir(parents=True)
    shutil.copy(install.ROOT / "install.py", folder)
    for name in install.TEST_FILES:
        (folder / name).write_text("", "utf-8")
    demo = "import sys, torch\nprint(torch.__version__, sys.argv[1:])\nsys.exit(7)\n"
    (folder / "unlearn_core/__init__.py").write_text("", "utf-8")
    (folder / "unlearn_core/__main__.py").write_text(demo, "utf-8")
    return folder


def test_demo_makes_an_environment_once_and_passes_arguments_and_status_on(
    checkout: Path, tmp_path: Path
) -> None:
    host = Host(tmp_path / "host")
    (host.packages / "torch").mkdir()
    (host.packages / "torch/__init__.py").write_text("__version__ = '2.99.0'", "utf-8")
    command = [str(host.python), str(checkout / "install.py"), "--demo", "--out", "pictures"]
    said = []
    for _ in range(2):
        start = time.monotonic()
        process = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=tmp_path)
        assert process.returncode == 7, process.stderr
        said.append(process.stdout.splitlines())
    assert said[0][-1] == "2.99.0 ['demo', '--out', 'pictures']"
    assert "using torch 2.99.0" in said[0][1]
    assert said[1] == said[0][-1:], "the second start should find everything in place"
    assert time.monotonic() - start < 10

    (checkout / "requirements.txt").write_text("# changed\n", "utf-8")
    process = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=tmp_path)
    assert "making .venv" in process.stdout


def test_a_torch_in_a_folder_of_any_script_is_lent_in_any_locale(
    checkout: Path, tmp_path: Path
) -> None:
    host = Host(tmp_path / "host")
    folder = tmp_path / "Größe 犬"
    (folder / "torch").mkdir(parents=True)
    (folder / "torch/__init__.py").write_text("__version__ = '2.99.0'", "utf-8")
    line = f"import os, sys; sys.path.append(os.fsdecode({os.fsencode(folder)!r}))"
    (host.packages / "elsewhere.pth").write_text(line, "ascii")
    for locale in ("C", "C.UTF-8"):
        given = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        command = [str(host.python), str(checkout / "install.py"), "--demo"]
        process = subprocess.run(
            command,
            env={**os.environ, **given},
            capture_output=True,
            encoding="utf-8",
            cwd=tmp_path,
        )
        assert process.returncode == 7, process.stderr
        assert process.stdout.splitlines()[-1] == "2.99.0 ['demo']"
        shutil.rmtree(checkout / ".venv")


def test_tests_run_side_by_side_and_nothing_turns_pip_or_python_away_from_the_environment(
    checkout: Path, tmp_path: Path
) -> None:
    host = Host(tmp_path / "host")
    shows = "import json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))"
    for name, content in (("torch", "__version__ = '2.99.0'"), ("pytest", "")):
        (host.packages / name).mkdir()
        (host.packages / name / "__init__.py").write_text(content, "utf-8")
    (host.packages / "pytest/__main__.py").write_text(shows, "utf-8")
    elsewhere = dict.fromkeys(("PYTHONPATH", "PIP_TARGET", "PIP_PREFIX"), str(tmp_path))

    def start(*asked: str, **given: str) -> tuple[list[str], dict[str, str]]:
        surroundings = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        command = [str(host.python), str(checkout / "install.py"), "--test", *asked]
        environment = {**surroundings, **elsewhere, "PIP_USER": "1", **given}
        process = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
        assert process.returncode == 0, process.stderr
        arguments, seen = json.loads(process.stdout.splitlines()[-1])
        return arguments, seen

    arguments, seen = start("--slow", "-k", "lora")
    assert arguments == [*install.IN_PARALLEL, "-m", "slow or not slow", "-k", "lora"]
    assert (seen["PYTHONPATH"], seen["PIP_USER"]) == (str(checkout), "0")
    assert not {"PIP_TARGET", "PIP_PREFIX"} & set(seen)
    assert seen["OMP_NUM_THREADS"] == "1"
    arguments, seen = start("-n", "0", OMP_NUM_THREADS="4")
    assert (arguments, seen["OMP_NUM_THREADS"]) == ([*install.IN_PARALLEL, "-n", "0"], "4")


@pytest.mark.parametrize("linked", [False, True])
def test_an_environment_that_somebody_else_made_is_not_emptied(
    linked: bool, checkout: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs" if linked else checkout / ".venv"
    theirs.mkdir()
    (theirs / "pyvenv.cfg").write_text("home = elsewhere\n", "utf-8")
    if linked:
        (theirs / install.STAMP).write_text("{}", "utf-8")
        (checkout / ".venv").symlink_to(theirs)
    command = [sys.executable, str(checkout / "install.py"), "--demo"]
    process = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert process.returncode == 1
    assert "was not made by install.py" in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert (theirs / "pyvenv.cfg").read_text("utf-8") == "home = elsewhere\n"


def test_an_environment_whose_making_was_cut_off_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / ".venv"
    folder.mkdir()
    (folder / "torn").write_text("", "utf-8")
    (folder / install.STAMP).write_text("{}", "utf-8")
    install.make_venv(folder)
    assert not (folder / "torn").exists()
    assert (folder / "pyvenv.cfg").is_file()
    assert (folder / install.STAMP).read_text("utf-8") == "{}"


@pytest.mark.parametrize(
    ("module", "advice"), [("venv", "python.org"), ("ensurepip", "apt install python3.")]
)
def test_a_python_that_cannot_make_environments_says_what_to_do(
    module: str, advice: str, checkout: Path
) -> None:
    code = (
        "import runpy, sys; sys.modules[sys.argv[1]] = None; sys.argv[1:2] = []; "
        "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    script = str(checkout / "install.py")
    command = [sys.executable, "-c", code, module, script, "--demo"]
    process = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert process.returncode == 1
    assert f"has no {module}" in process.stderr
    assert advice in process.stderr
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--slow"], ["--demo", "--slow"], ["--out", "here"]])
def test_arguments_without_their_command_are_refused(arguments: list[str]) -> None:
    command = [sys.executable, str(install.ROOT / "install.py"), *arguments]
    assert subprocess.run(command, capture_output=True).returncode == 2


@pytest.mark.parametrize(
    ("listed", "newest"),
    [
        ("torch (2.15.0)\nAvailable versions: 2.15.0, 2.9.1+cpu, 2.13.0+cpu, 2.13.0", "2.13.0+cpu"),
        ("torch (2.15.0)\nAvailable versions: 2.15.0, 2.13.0+cu130", None),
        ("ERROR: unknown command", None),
    ],
)
def test_a_cpu_build_is_known_by_its_version(listed: str, newest: str | None) -> None:
    assert install.newest_cpu_build(listed) == newest


@pytest.mark.parametrize(
    ("version", "allowed"),
    [
        *[("0.13.1", False), ("0.13.2", True), ("0.15.2", True), ("0.16.0", False)],
        *[("0.17.1", False), ("0.18.0", True), ("0.21.2", True), ("1.0.0rc1", True)],
    ],
)
def test_the_range_of_peft_is_read_as_pip_reads_it(version: str, allowed: bool) -> None:
    assert install.allows(install.peft_requirement(), version) == allowed
