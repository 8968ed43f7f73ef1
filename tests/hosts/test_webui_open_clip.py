"""The encoders that AUTOMATIC1111 really has: open_clip 2.20.0's blocks, and CLIPTextModels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from webui_host import install

pytestmark = pytest.mark.host
ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".hosts" / "open-clip-2.20.0"
WHEEL = "open_clip_torch==2.20.0"
SCRIPT = Path(__file__).with_name("webui_open_clip.py")
MODELS = ("sd1, Clip skip 1", "sd1, Clip skip 2", "sd2", "sdxl")
Measured = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def measured() -> Measured:
    """What the script has measured, with the transformers that such hosts have."""
    if not (HOME / "open_clip").is_dir():
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", str(HOME), WHEEL]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(HOME.glob("*.whl"))) as wheel:
            wheel.extractall(HOME, [n for n in wheel.namelist() if n.startswith("open_clip/")])
    process = subprocess.run(
        [str(install("a1111")), str(SCRIPT), str(HOME)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, encoding="utf-8",
        timeout=600,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    found: Measured = json.loads(process.stdout.partition("MEASURED ")[2])
    return found


@pytest.mark.parametrize("model", MODELS)
def test_the_copy_encodes_as_the_host_does(measured: Measured, model: str) -> None:
    assert measured[model]["copy"] <= 1e-4


@pytest.mark.parametrize("model", MODELS)
def test_every_module_of_a_file_finds_its_place_and_does_what_the_engine_says(
    measured: Measured, model: str
) -> None:
    assert measured[model]["unmatched"] == 0
    assert measured[model]["moves"] > 0.1
    assert measured[model]["lora"] <= 1e-4


def test_attention_without_all_four_parts_would_do_nothing(measured: Measured) -> None:
    assert measured["without out"]["moves"] == 0.0
