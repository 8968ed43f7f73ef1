"""The thin WebUI with this checkout linked as an extension: real gradio 3.41.2 or 4.40.0.

No package index carries the WebUI itself; the real hosts are started by hand.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from host_install import install_once, lend_packages, make_environment, pip_install
from host_server import HostServer

ROOT = Path(__file__).resolve().parents[2]
FORGET, PROGRESS, CANCEL = (f"/unlearn/v1/{name}" for name in ("forget", "progress", "cancel"))
LAUNCHER = Path(__file__).with_name("webui_launcher.py")
COMMON = (
    "httpx==0.24.1", "markupsafe==2.1.5", "jinja2==3.1.4", "numpy==1.26.4",
    "huggingface-hub==0.36.0", "transformers==4.46.1", "diffusers==0.31.0", "peft==0.13.2",
    "accelerate==0.31.0",
)  # fmt: skip
PACKAGES = {
    "a1111": (
        "gradio==3.41.2", "gradio_client==0.5.0", "fastapi==0.94.0", "starlette==0.26.1",
        "pydantic==1.10.21", "httpcore==0.15.0", "websockets==11.0.3", *COMMON,
    ),
    "forge": (
        "gradio==4.40.0", "gradio_client==1.2.0", "fastapi==0.104.1", "pydantic==2.8.2", *COMMON,
    ),
}  # fmt: skip
"""What the hosts of that shape ship, where it matters here."""


def install(shape: str) -> Path:
    """Install one gradio once; returns the Python that runs it."""
    home = ROOT / ".hosts" / f"webui-{shape}"
    python = home / "venv" / "bin" / "python"
    packages = PACKAGES[shape]

    def fill() -> None:
        # peft and accelerate ask for torch, which is lent.
        alone = [name for name in packages if name.startswith(("peft", "accelerate"))]
        rest = [name for name in packages if name not in alone]
        make_environment(home / "venv")
        pip_install(python, *rest, "psutil", "safetensors", "tqdm")
        pip_install(python, "--no-deps", *alone)
        lend_packages(home / "venv")

    install_once(home, " ".join(packages), packages[0].replace("==", " "), fill, 100)
    return python


class Refused(Exception):
    """The server answered with an error."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status, self.detail = status, detail


class WebuiServer(HostServer):
    """The running thin host."""

    def __init__(self, shape: str, folder: Path) -> None:
        """Start it with models and uploads below `folder`."""
        super().__init__(folder)
        python = install(shape)
        self.shape = shape
        self.loras = folder / "models" / "Lora"
        self.loras.mkdir(parents=True)
        self.uploads = folder / "uploads"
        extension = folder / "extensions" / "sd-unlearn"
        extension.parent.mkdir()
        extension.symlink_to(ROOT)
        environment = {
            **os.environ, "PYTHONPATH": "", "GRADIO_TEMP_DIR": str(self.uploads),
            "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        arguments = [str(extension), str(folder), str(self.port), shape]
        self.start([str(python), str(LAUNCHER), *arguments], environment, folder)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        for _ in range(600):
            if "READY" in self.log:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.5)
        self.stop()
        raise RuntimeError(f"the thin WebUI did not start:\n{self.log[-3000:]}")

    def call(
        self, path: str, content: object = None, login: str | None = None, method: str = ""
    ) -> Any:
        """GET, or POST of JSON where there is content; raises Refused."""
        headers = {"Content-Type": "application/json"}
        if login is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.address}{path}", body, headers)
        request.method = method or ("GET" if content is None else "POST")
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            raise Refused(error.code, json.loads(text).get("detail", text)) from error

    def names(self) -> set[str]:
        """Names of the files among the LoRAs."""
        return {path.name for path in self.loras.rglob("*") if path.is_file()}


def in_background(
    server: WebuiServer, content: dict[str, Any]
) -> tuple[threading.Thread, list[Any]]:
    """A run in another thread, and where its answer or refusal will be."""
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(server.call(FORGET, content))
        except Refused as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, answers


def wait_for(server: WebuiServer, stage: str) -> dict[str, Any]:
    """The first report of a step of a stage."""
    for _ in range(3000):
        report = dict(server.call(PROGRESS))
        if report.get("stage") == stage and report["total"]:
            return report
        time.sleep(0.05)
    raise TimeoutError(server.log[-2000:])
