"""Fixtures shared by all tests."""

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load_helper(path: str) -> None:
    """Make tests/PATH.py importable by its name; tests/ is no package, sys.path stays as it is."""
    name = path.rpartition("/")[2]
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / f"{path}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


load_helper("tiny_model")
load_helper("tiny_families")
load_helper("hosts/host_install")
load_helper("hosts/host_server")
load_helper("hosts/comfy_host")
load_helper("hosts/comfy_launcher")
load_helper("hosts/comfy_page")
load_helper("hosts/webui_slim_pipeline")
load_helper("hosts/webui_slim_towers")
load_helper("hosts/webui_demo_model")
load_helper("hosts/webui_host")
load_helper("repository/node_texts")


def pytest_configure(config: pytest.Config) -> None:
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:  # -p no:capture
        sys.modules["host_install"].outside_capture = capture.global_and_fixture_disabled
    # The way to the hosts on this machine leads through no proxy that is set for the network.
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = ",".join(filter(None, [direct, "127.0.0.1"]))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say in one line a reason what was left out."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]) for report in skipped)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def in_fresh_process() -> Callable[..., str]:
    """Run code in a new Python that can import the checkout; return what it printed."""

    def run(code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        process = subprocess.run(
            command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    return run
