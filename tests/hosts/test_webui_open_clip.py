"""The encoder that AUTOMATIC1111 really has: open_clip 2.20.0's blocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.host
ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".hosts" / "open-clip-2.20.0"
WHEEL = "open_clip_torch==2.20.0"
SCRIPT = Path(__file__).with_name("webui_open_clip.py")


@pytest.fixture(scope="module")
def measured() -> dict[str, float]:
    """What the script has measured."""
    if not (HOME / "open_clip").is_dir():
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", str(HOME), WHEEL]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(HOME.glob("*.whl"))) as wheel:
            wheel.extractall(HOME, [n for n in wheel.namelist() if n.startswith("open_clip/")])
    process = subprocess.run(
        [sys.executable, str(SCRIPT), str(HOME)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    found: dict[str, float] = json.loads(process.stdout.partition("MEASURED ")[2])
    return found


def test_the_copy_encodes_as_open_clip_does(measured: dict[str, float]) -> None:
    assert measured["copy"] <= 1e-5


def test_attention_without_all_four_parts_would_do_nothing(measured: dict[str, float]) -> None:
    assert measured["incomplete"] == 0.0


def test_a_completed_lora_does_in_the_host_what_the_engine_says(measured: dict[str, float]) -> None:
    assert measured["moves"] > 0.1
    assert measured["complete"] <= 1e-5
