"""Installs what SD Unlearn needs, using the standard library only.

    python install.py                   what a host runs: adds a fitting peft to this Python
    python install.py --demo [...]      makes .venv and runs the demo in it
    python install.py --test [--slow]   makes .venv and runs the tests in it
    python3.10 install.py --test --oldest   the engine's tests with what the WebUI ships

Arguments it does not know go on to the demo, or to pytest.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = "sd-unlearn.json"
"""In an environment that was made here: what it was filled from."""
REQUIREMENTS = ROOT / "requirements.txt"
DEMO_FILES = ("requirements.txt", "requirements-headless.txt")
TEST_FILES = (*DEMO_FILES, "requirements-bench.txt", "requirements-test.txt")
OLDEST_VENV = ROOT / ".venv-oldest"
OLDEST_FILE = ROOT / "requirements-oldest.txt"
NOT_OF_THE_ENGINE = ("bench", "hosts", "repository")
ENGINE = ("-m", "not host and not slow", *(f"--ignore=tests/{name}" for name in NOT_OF_THE_ENGINE))

IN_PARALLEL = ("-n", "logical", "--maxprocesses", "4", "--dist", "loadfile")

OLDEST_PYTHON = (3, 10)
OLDEST_TORCH = (2, 6)  # what today's transformers and diffusers ask for

# tests/repository/test_peft_pairs.py: peft 0.13.2 works beside transformers 4.30 to 5.23. What is
# newer needs cache classes that early transformers lack, and a function that accelerate has had
# since 0.34.
SAFE_PEFT = "0.13.2"
NEW_HOST = {"transformers": (4, 50), "accelerate": (0, 34)}


class CannotInstallError(Exception):
    """Says, in words for the user, why an installation stopped and what to do."""


def say(line: str) -> None:
    """Print one line of progress at once."""
    print(f"sd-unlearn: {line}", flush=True)


def numbers(version: str) -> tuple[int, ...]:
    """Return the first three numbers of a version: "2.13.0+cpu" is (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def installed(package: str) -> str | None:
    """Return the version of `package` in this Python without importing it, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def ask(python: str | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program, such as a Python, and keep what it says, in UTF-8 whatever the locale is."""
    environment = {
        **os.environ,
        "PYTHONIOENCODING": "utf-8",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    return subprocess.run(
        [str(python), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )


def pip(python: str | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pip of `python`, silent but for errors."""
    user_site = ["-s"] if sys.flags.no_user_site else []
    return ask(python, *user_site, "-m", "pip", *arguments, "-qq", "--no-input")


def add_to_host(requirement: str) -> subprocess.CompletedProcess[str]:
    """Install a package, without its dependencies, into this Python: by pip, else by uv.

    Raises CannotInstallError where there is neither.
    """
    if importlib.util.find_spec("pip") is not None:
        return pip(sys.executable, "install", "--no-deps", requirement)
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise CannotInstallError(f"this Python has no pip, and there is no uv ({sys.executable})")
    arguments = ["pip", "install", "--quiet", "--python", sys.executable, "--no-deps", requirement]
    return ask(uv, *arguments)


def what_failed(process: subprocess.CompletedProcess[str]) -> str:
    """Return the last error that a failed command told, and what followed it, as one line."""
    lines = (process.stderr.strip() or process.stdout.strip()).splitlines()
    errors = [i for i, line in enumerate(lines) if line.lower().startswith("error")]
    told = lines[errors[-1] if errors else -1 :]
    return " ".join(line.strip() for line in told) or f"exit status {process.returncode}"


# --- No arguments: what ComfyUI-Manager and the WebUI run -----------------------------------------


def peft_requirement() -> str:
    """Return the line of requirements.txt that names peft."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return next(line.strip() for line in lines if line.startswith("peft"))


def allows(requirement: str, version: str) -> bool:
    """Tell whether a requirement made of `>=X` and `!=X.*` allows `version`."""
    have = numbers(version)
    for sign, bound in re.findall(r"(>=|!=)([\d.]+)", requirement):
        limit = numbers(bound)
        if sign == ">=" and have < limit:
            return False
        if sign == "!=" and have[: len(limit)] == limit:
            return False
    return True


def is_new_host() -> bool:
    """Tell whether this host's packages are new enough for any peft."""
    return all(numbers(installed(name) or "0") >= oldest for name, oldest in NEW_HOST.items())


def peft_imports() -> bool:
    """Tell whether peft can be imported in this Python; takes seconds, it imports torch."""
    user_site = ["-s"] if sys.flags.no_user_site else []
    command = [sys.executable, *user_site, "-c", "import peft"]
    return subprocess.run(command, capture_output=True).returncode == 0


def install_for_host() -> str:
    """Add a fitting peft to this Python if it lacks one; return the line that tells what was done.

    The host's own packages are never touched: peft goes in without its dependencies.
    """
    missing = [name for name in ("torch", "transformers", "accelerate") if not installed(name)]
    if missing:
        lacks = ", ".join(missing)
        return f"nothing installed: this Python lacks {lacks}, which peft needs ({sys.executable})"
    requirement = peft_requirement()
    version = installed("peft")
    if version and numbers(version) >= numbers(SAFE_PEFT):  # a host may pin one out of the range
        known_to_work = is_new_host() and allows(requirement, version)
        if known_to_work or version == SAFE_PEFT or peft_imports():
            return f"nothing to install, peft {version} is here"
    wishes = [requirement] if is_new_host() else []
    for wish in [*wishes, f"peft=={SAFE_PEFT}"]:
        try:
            process = add_to_host(wish)
        except CannotInstallError as error:
            return f"could not install {wish}: {error}"
        if process.returncode != 0:
            return f"could not install {wish}: {what_failed(process)}"
        if peft_imports():
            importlib.invalidate_caches()
            return f"installed peft {installed('peft')} (was: {version or 'none'})"
    return f"installed peft {SAFE_PEFT}, but it cannot be imported here: python -c 'import peft'"


# --- --demo and --test: an environment of our own -------------------------------------------------


def fingerprint(files: tuple[str, ...]) -> str:
    """Return a hash that changes when .venv must be made or filled anew."""
    parts = [f"{sys.version_info[:3]} {sys.base_prefix}", Path(__file__).read_text("utf-8")]
    parts += [(ROOT / name).read_text("utf-8") for name in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def make_venv(folder: Path) -> None:
    """Create an environment, empty but for pip, in the place of one that was made here before.

    Raises CannotInstallError where this Python can't, and for one without STAMP, which somebody
    else made.
    """
    if importlib.util.find_spec("venv") is None:
        raise CannotInstallError(
            f"this Python ({sys.executable}) has no venv module; an embedded Python, like the one "
            "inside a portable ComfyUI, cannot do this. Install Python 3.10 to 3.13 from python.org"
        )
    if importlib.util.find_spec("ensurepip") is None:
        raise CannotInstallError(
            f"this Python ({sys.executable}) has no ensurepip, so no environment can be made. On "
            f"Debian or Ubuntu: sudo apt install python3.{sys.version_info.minor}-venv"
        )
    stamp = folder / STAMP
    filled = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if folder.is_symlink() or (filled and not stamp.is_file()):
        raise CannotInstallError(
            f"{folder} is there already and was not made by install.py, which would have to empty "
            "it: move it away or remove it"
        )
    import venv

    say(f"making {folder.name} with Python {sys.version.split()[0]}")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    stamp.write_text("{}", "utf-8")  # before all else: it is ours even if this is cut off
    venv.EnvBuilder(with_pip=True, symlinks=os.name != "nt").create(folder)


def lend_torch() -> bool:
    """Let .venv use the torch of the Python that runs this; tell whether there is a fit one."""
    # JSON and the .pth line are ASCII: a path comes through whole in every locale.
    code = "import json, torch; print(json.dumps([torch.__version__, torch.__file__]))"
    found = ask(sys.executable, "-W", "ignore", "-c", code)
    if found.returncode != 0:
        return False
    version, file = json.loads(found.stdout.splitlines()[-1])
    if numbers(version) < OLDEST_TORCH:
        say(f"torch {version} of this Python is too old, it will get its own")
        return False
    # A .pth line, not system-site-packages: that would miss a torch that lives in another venv.
    lender = Path(file).parents[1]
    code = "import json, sysconfig; print(json.dumps(sysconfig.get_path('purelib')))"
    packages = Path(json.loads(ask(VENV_PYTHON, "-c", code).stdout))
    line = f"import sys; sys.path.append({str(lender)!a})\n"
    (packages / "lent_torch.pth").write_text(line, "ascii")
    say(f"using torch {version} of this Python, and what is installed beside it")
    return True


def newest_cpu_build(pip_output: str) -> str | None:
    """Return the newest version with the local label "cpu" that `pip index versions` lists."""
    listed = re.search(r"Available versions: (.*)", pip_output)
    versions = listed.group(1).split(", ") if listed else []
    cpu = [version.strip() for version in versions if version.strip().endswith("+cpu")]
    return max(cpu, key=numbers, default=None)


def file_size(url: str) -> int:
    """Return how many bytes are behind a file: or http(s): address."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path)).stat().st_size
    request = urllib.request.Request(url, method="HEAD")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.headers["Content-Length"])


def download_size(requirement: str) -> str:
    """Return in words how much pip would download for `requirement`."""
    report = pip(VENV_PYTHON, "install", "--dry-run", "--report", "-", requirement)
    try:
        packages = json.loads(report.stdout)["install"]
        total = sum(file_size(package["download_info"]["url"]) for package in packages)
    except (ValueError, KeyError, TypeError, OSError):
        return "size unknown; with CUDA libraries it can be several GB"
    return f"{total / 1e6:,.0f} MB to download, {len(packages)} packages"


def install_torch() -> None:
    """Put torch into .venv: a CPU build where pip can reach one, else the platform's default."""
    listed = ask(VENV_PYTHON, "-m", "pip", "index", "versions", "torch")
    cpu_build = newest_cpu_build(listed.stdout)
    requirement = f"torch=={cpu_build}" if cpu_build else "torch"
    kind = "CPU build" if cpu_build else "the platform's default"
    say(f"installing {requirement} ({kind}; {download_size(requirement)})")
    install(requirement)


def install(*arguments: str) -> None:
    """Install into .venv, or raise with what pip said."""
    # Most of it is never imported; compiling all would take longer than unpacking it.
    process = pip(VENV_PYTHON, "install", "--no-compile", *arguments)
    if process.returncode != 0:
        raise CannotInstallError(f"pip failed:\n{process.stderr.strip()}")


def ensure_venv(files: tuple[str, ...]) -> None:
    """Make and fill .venv unless it already holds what `files` ask for."""
    if sys.version_info < OLDEST_PYTHON:
        raise CannotInstallError(
            "Python 3.10 or newer is needed, this is " + sys.version.split()[0]
        )
    stamp = VENV / STAMP
    wanted = "test" if files == TEST_FILES else "demo"
    prints = {"demo": fingerprint(DEMO_FILES), "test": fingerprint(TEST_FILES)}
    try:
        done = json.loads(stamp.read_text("utf-8"))
    except (OSError, ValueError):
        done = {}
    if done.get(wanted) == prints[wanted]:
        return
    if done.get("demo") != prints["demo"]:
        if Path(sys.prefix).resolve() == VENV:
            raise CannotInstallError("run this with a Python outside .venv, which must be remade")
        make_venv(VENV)
        if not lend_torch():
            install_torch()
    say(f"installing {', '.join(files)}")
    install(*(part for name in files for part in ("-r", str(ROOT / name))))
    stamp.write_text(json.dumps(prints if wanted == "test" else {"demo": prints["demo"]}), "utf-8")


def ensure_oldest_venv() -> Path:
    """Make and fill .venv-oldest unless that was done; return its Python."""
    if sys.version_info[:2] != OLDEST_PYTHON:
        raise CannotInstallError(
            "AUTOMATIC1111's WebUI ships Python 3.10, this is "
            f"{sys.version.split()[0]}: run python3.10 install.py --test --oldest"
        )
    python = OLDEST_VENV / VENV_PYTHON.relative_to(VENV)
    stamp = OLDEST_VENV / STAMP
    wanted = OLDEST_FILE.read_text("utf-8")
    if not stamp.exists() or stamp.read_text("utf-8") != wanted:
        make_venv(OLDEST_VENV)
        say("its torch takes gigabytes, CUDA libraries included")
        process = pip(python, "install", "--prefer-binary", "-r", str(OLDEST_FILE))
        if process.returncode != 0:
            raise CannotInstallError(f"pip failed:\n{process.stderr.strip()}")
        stamp.write_text(wanted, "utf-8")
    return python


def keep_to_ourselves() -> None:
    """Drop what may turn pip and Python away from .venv, such as a PYTHONPATH for other work."""
    for name in ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX"):
        os.environ.pop(name, None)
    os.environ["PIP_USER"] = "0"  # in an environment `user = true` of a pip.conf is an error


def run(*arguments: str, cwd: Path | None = None, python: Path = VENV_PYTHON) -> int:
    """Run .venv's Python with this checkout importable; return its exit status."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([str(python), *arguments], env=environment, cwd=cwd).returncode


def main() -> int:
    """Do what the arguments ask; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--demo", action="store_true", help="make .venv, run the demo")
    mode.add_argument("--test", action="store_true", help="make .venv, run the tests")
    parser.add_argument("--slow", action="store_true", help="with --test: the slow tests too")
    parser.add_argument(
        "--oldest", action="store_true", help="with --test: the engine's, with what the WebUI ships"
    )
    options, rest = parser.parse_known_args()
    if (options.slow or options.oldest) and not options.test:
        parser.error("--slow and --oldest go with --test")
    if rest and not (options.demo or options.test):
        parser.error(f"unknown arguments: {' '.join(rest)}")

    if not (options.demo or options.test):
        try:
            say(install_for_host())
        except Exception as error:  # a host that starts must not stumble over an extension
            say(f"nothing installed: {error!r}")
        return 0
    keep_to_ourselves()
    try:
        if options.oldest:
            return run("-m", "pytest", *ENGINE, *rest, cwd=ROOT, python=ensure_oldest_venv())
        ensure_venv(TEST_FILES if options.test else DEMO_FILES)
    except CannotInstallError as error:
        print(f"sd-unlearn: {error}", file=sys.stderr)
        return 1
    if options.demo:
        return run("-m", "unlearn_core", "demo", *rest)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # most tests are too small for two threads
    say("running the tests; some of them install ComfyUI and gradio first, once")
    every = ["-m", "slow or not slow"] if options.slow else []
    return run("-m", "pytest", *IN_PARALLEL, *every, *rest, cwd=ROOT)


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a letter that the terminal lacks
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
