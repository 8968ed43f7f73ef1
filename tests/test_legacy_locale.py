"""Files are read and written as UTF-8 where the locale is another, as on Windows.

A process whose locale is ASCII and whose file names are UTF-8 stands for a Windows of any language.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open

LEGACY = """
import locale, sys
locale.setlocale(locale.LC_CTYPE, "C")
assert "utf" not in locale.getpreferredencoding(False).lower(), "this would show nothing"
assert sys.getfilesystemencoding() == "utf-8"
"""
FORGET_A_LIST = """
from unlearn_core.__main__ import main

command = ["forget", "--model", "Größe 犬/Modell", "--list", "Größe 犬/Liste é.jsonl"]
command += ["--preset", "quick", "--steps", "0", "--out", "Größe 犬/Löschen"]
for _ in range(2):  # the second finds its records
    assert main(command) == 0
"""
WRITE_THE_TABS_FILES = """
from pathlib import Path
import torch
from unlearn_core.lora.keys import text_module
from unlearn_core.lora.weights import LoraPair, LoraWeights
from unlearn_core.models.families import SD2
from unlearn_core.training.inversion import LearnedVectors
from unlearn_webui.outputs import LoraFiles, save_vectors
from unlearn_webui.uploads import pictures_from_files

folder = Path("Größe 犬")
pictures = pictures_from_files(sorted(folder.glob("Bilder ä/*.png")))
pair = LoraPair(torch.ones(2, 8), torch.ones(8, 2), 2.0)
files = LoraFiles.unused(folder, "Kätzchen 犬", False, ())
files.save_lora(LoraWeights({text_module(22, "q_proj"): pair}, {"unlearn_concept": "犬"}), False)
files.save_card(SD2, "Vergisst Kätzchen 犬.", ["é"], 0.75)
files.save_picture(pictures[0])
save_vectors(LearnedVectors(torch.zeros(1, 8), (), 1.0), "Kätzchen 犬", False, folder)
"""


def run(code: str, root: Path, cwd: Path) -> str:
    environment = {"PYTHONPATH": str(root), "PYTHONUTF8": "0", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.run(
        [sys.executable, "-c", LEGACY + code], cwd=cwd, timeout=300, capture_output=True,
        env={**os.environ, "LC_ALL": "C.UTF-8", **environment}, encoding="utf-8",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_engine_forgets_a_list_of_names_in_any_script(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Größe 犬"
    shutil.copytree(root / "demo/model", folder / "Modell")
    shutil.copytree(root / "demo/pictures/cat", folder / "Bilder ä")
    line = {"concept": "Kätzchen 犬", "images": "Bilder ä", "stand_in": "dog"}
    text = json.dumps(line, ensure_ascii=False)
    (folder / "Liste é.jsonl").write_text(text, "utf-8")
    said = run(FORGET_A_LIST, root, tmp_path)
    assert "Kätzchen 犬: forget-kätzchen-犬.safetensors" in said
    assert "1 of 1 are done already" in said
    record = json.loads((folder / "Löschen/forgotten.jsonl").read_text("utf-8"))
    assert record["concept"] == "Kätzchen 犬"
    assert (folder / "Löschen/forget-kätzchen-犬.safetensors").exists()


def test_the_webui_tab_writes_its_files(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Größe 犬"
    shutil.copytree(root / "demo/pictures/cat", folder / "Bilder ä")
    run(WRITE_THE_TABS_FILES, root, tmp_path)
    card = json.loads((folder / "forget-kätzchen-犬.json").read_text("utf-8"))
    assert card["description"] == "Vergisst Kätzchen 犬."
    with safe_open(folder / "forget-kätzchen-犬.safetensors", "pt") as lora:
        assert lora.metadata()["unlearn_concept"] == "犬"
    assert (folder / "forget-kätzchen-犬.png").exists()
    assert len(list(folder.glob("*.safetensors"))) == 2
