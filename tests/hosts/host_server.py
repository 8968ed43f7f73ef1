"""A host in a subprocess: a free port, its log, its end; and the browser that looks at it.

tests/ is no package; conftest.py loads this file under the plain name `host_server`.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # conftest.py loads this file where there may be no playwright
    from playwright.sync_api import Browser, Playwright


class HostServer:
    """The running process; its hosts know when they are ready."""

    ends_with = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        """Choose a free port; the log goes into `folder`."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.log_file = folder / "server.log"

    def start(self, command: Sequence[str], environment: dict[str, str], cwd: Path) -> None:
        """Start the process; what it prints goes into the log."""
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=cwd
            )

    @property
    def log(self) -> str:
        """Everything that the server has printed."""
        return self.log_file.read_text(errors="replace")

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End the server."""
        if self.process.poll() is None:
            self.process.send_signal(self.ends_with)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()


def open_browser(playwright: Playwright) -> Browser:
    """The system's Chromium, headless."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "these tests need Chromium (on Debian: apt install chromium)"
    return playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
