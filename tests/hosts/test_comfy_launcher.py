"""How the launcher of ComfyUI tells the pack's own code from ComfyUI's, which lies below it."""

from pathlib import Path

import comfy_launcher
import pytest


@pytest.mark.parametrize("name", ["sd-unlearn", "main", "unlearn_core", "ein Ordner für alles"])
@pytest.mark.parametrize(
    ("file", "of_the_pack"),
    [
        ("__init__.py", True),
        ("nodes/forget.py", True),
        ("unlearn_core/training/loop.py", True),
        (".hosts/comfyui-0.3.75/ComfyUI/nodes.py", False),
        (".hosts/comfyui-0.3.75/ComfyUI/comfy/sd.py", False),
        (".venv/lib/python3.11/site-packages/peft/__init__.py", False),
        ("tests/hosts/comfy_launcher.py", False),
        ("../nodes/forget.py", False),
    ],
)
def test_the_pack_is_known_by_its_real_folder(
    file: str, of_the_pack: bool, name: str, tmp_path: Path
) -> None:
    root = tmp_path / name
    root.mkdir()
    (tmp_path / "custom_nodes").mkdir()
    link = tmp_path / "custom_nodes" / "sd-unlearn"
    link.symlink_to(root)
    for folder in (root, link):
        assert comfy_launcher.is_of_the_pack(str(folder / file), root) == of_the_pack


def test_a_frame_without_a_file_is_not_the_packs() -> None:
    assert not comfy_launcher.is_of_the_pack("<frozen importlib._bootstrap>")
