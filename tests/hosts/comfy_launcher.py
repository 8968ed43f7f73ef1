"""Runs ComfyUI's main.py: `comfy_launcher.py COMFYUI [arguments]`.

The CPU build of torchvision that pip finds may lack its operators, which are not used here; two
schemas keep its import alive. torchaudio, which newer ComfyUIs import, is empty. diffusers is
hidden, as ComfyUI does not bring it, and what the pack imports of the heavy packages is printed.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FrameType, ModuleType

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("transformers", "peft", "diffusers")


def is_of_the_pack(file: str, root: Path = ROOT) -> bool:
    """Tell whether a frame's file is the pack's own; links are followed, as custom_nodes has one.

    ComfyUI itself lies below the checkout too, in .hosts.
    """
    path = Path(file).resolve()
    inside = path.relative_to(root).parts if path.is_relative_to(root) else ()
    return inside[:1] in (("__init__.py",), ("nodes",), ("unlearn_core",))


class _Hidden(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in HEAVY:
            frame: FrameType | None = sys._getframe(1)
            while frame is not None:
                if is_of_the_pack(frame.f_code.co_filename):
                    print(f"{name} is imported by the pack", flush=True)
                    break
                frame = frame.f_back
        if name.split(".")[0] == "diffusers":
            raise ModuleNotFoundError("No module named 'diffusers'", name=name)
        return None


def stand_in_for_packages() -> list[object]:
    """Keep the imports of torchvision and torchaudio alive, as long as the caller holds these."""
    import torch

    torchvision = torch.library.Library("torchvision", "FRAGMENT")
    torchvision.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torchvision.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    if importlib.util.find_spec("torchaudio") is None:
        for name in ("torchaudio", "torchaudio.functional", "torchaudio.transforms"):
            module = sys.modules[name] = ModuleType(name)
            module.__spec__ = ModuleSpec(name, None)
            parent, _, own = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], own, module)
    return [torchvision]


def main(folder: str) -> None:
    """Start ComfyUI, and stay until it ends."""
    held = stand_in_for_packages()  # noqa: F841
    sys.meta_path.insert(0, _Hidden())
    sys.argv = ["main.py", *sys.argv[2:]]
    sys.path[0] = folder
    runpy.run_path(f"{folder}/main.py", run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1])
