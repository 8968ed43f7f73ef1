"""A host in a subprocess: a free port, its log, its end; and the browser that looks at it.

tests/ is no package; conftest.py loads this file under the plain name `host_server`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

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
        with self.log_file.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=cwd
            )

    @property
    def log(self) -> str:
        """Everything that the server has printed."""
        return self.log_file.read_text("utf-8", errors="replace")

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


BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge",
    "microsoft-edge-stable", "brave", "brave-browser", "vivaldi", "vivaldi-stable",
)  # fmt: skip
NO_BROWSER = (
    "no browser for the front ends: install Chromium, Chrome or Edge (Debian: apt install "
    f'chromium), or run "{sys.executable}" -m playwright install chromium'
)


def open_browser(playwright: Playwright) -> Browser:
    """The first browser of this machine that starts, headless: any that is made of Chromium.

    Without one the test is skipped, and fails where CI is set.
    """
    from playwright.sync_api import Error

    named = [os.environ.get("CHROMIUM"), *map(shutil.which, BROWSERS)]
    choices: list[dict[str, Any]] = [{"executable_path": path} for path in named if path]
    # Where they are installed on any system, and what playwright itself has downloaded.
    choices += [{"channel": "chrome"}, {"channel": "msedge"}, {"channel": "chromium"}, {}]
    for choice in choices:
        with contextlib.suppress(Error):  # a wrapper that installs nothing, a broken installation
            return playwright.chromium.launch(**choice, args=["--no-sandbox"])
    if os.environ.get("CI"):
        pytest.fail(NO_BROWSER, pytrace=False)
    pytest.skip(NO_BROWSER)
