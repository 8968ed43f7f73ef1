"""The small models that ship in demo/: their pipelines, their judge and the world they know."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..files.input_files import read_json
from .model_files import fill_module, read_weights
from .pipeline_folder import FolderPipeline, load_pipeline_folder

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

DEMOS = MappingProxyType({"demo": "sd2", "demo-sd1": "sd1", "demo-xl": "sdxl"})
"""What the demo models are called in place of a folder -> the key of their family."""
_FOLDERS = MappingProxyType(
    {"sd2": ("model",), "sd1": ("sd1", "model"), "sdxl": ("sdxl", "sd1", "model")}
)
"""A family's folder in demo/, and those that hold the parts that it shares."""


def demo_folder() -> Path:
    """The folder demo/ beside the engine, with model/, judge/, pictures/ and world.json."""
    return Path(__file__).parents[2] / "demo"


def demo_folders(family: str = "sd2") -> tuple[Path, ...]:
    """A family's folder in demo/, and behind it those that hold the parts that it shares."""
    return tuple(demo_folder() / name for name in _FOLDERS[family])


def demo_model_folder(name: str) -> Path:
    """The folder of a demo model by its name, one of DEMOS."""
    return demo_folder() / _FOLDERS[DEMOS[name]][0]


def load_demo_pipeline(family: str = "sd2") -> DiffusionPipeline:
    """A family's demo model as a diffusers pipeline: float32 weights, on the CPU, frozen.

    `family` is "sd1", "sd2" or "sdxl". Reads only files of this repository, never the network.
    Raises BadFile if one is missing or damaged.
    """
    return load_demo_folder(family).pipeline


def load_demo_folder(family: str = "sd2") -> FolderPipeline:
    """As `load_demo_pipeline`, with how it was read."""
    folder, *shared = demo_folders(family)
    return load_pipeline_folder(folder, torch.float32, shared)


def load_demo_world() -> dict[str, Any]:
    """demo/world.json: the objects, styles and backgrounds that the demo model learned.

    Keys: `objects` (name -> {"category", "synonyms", "descriptions"}), `controls` (objects that the
    judges know and the model never saw), `hypernyms` and `plural_objects` (lists of words),
    `styles` (name -> phrases), `backgrounds` (list). Raises BadFile.
    """
    return read_json(demo_folder() / "world.json")


class _ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a 1 x 1 shortcut; the first one strides."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.shortcut = nn.Conv2d(width_in, width_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(hidden)) + self.shortcut(x))


class Judge(nn.Module):
    """A small CNN that names the object and the style of a 64 x 64 picture."""

    objects: list[str]
    styles: list[str]

    def __init__(
        self, objects: list[str], styles: list[str], stem_width: int, block_widths: list[int]
    ) -> None:
        super().__init__()
        self.objects = objects
        self.styles = styles
        self.stem = nn.Conv2d(3, stem_width, 3, 2, 1)
        widths = [stem_width, *block_widths]
        self.blocks = nn.Sequential(
            *(
                _ResidualBlock(before, after, 1 if index == 0 else 2)
                for index, (before, after) in enumerate(pairwise(widths))
            )
        )
        self.object_head = nn.Linear(widths[-1], len(objects))
        self.style_head = nn.Linear(widths[-1], len(styles))

    def features(self, pixels: Tensor) -> Tensor:
        """(B, 3, 64, 64) float32 in [-1, 1] -> what both heads read, (B, width)."""
        hidden: Tensor = self.blocks(functional.relu(self.stem(pixels)))
        return hidden.mean((2, 3))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 64, 64) float32 in [-1, 1] -> logits (B, objects) and (B, styles)."""
        hidden = self.features(pixels)
        return self.object_head(hidden), self.style_head(hidden)

    @torch.no_grad()
    def classify(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The most likely object and style of each picture.

        (B, 3, 64, 64) float32 in [-1, 1] -> two (B,) int64 tensors that index `objects` and
        `styles`, on the device of the pixels.
        """
        objects, styles = self.to(pixels.device)(pixels.float())
        return objects.argmax(1), styles.argmax(1)


def load_demo_judge() -> Judge:
    """The judge that ships in demo/judge, frozen, on the CPU. Raises BadFile."""
    folder = demo_folder() / "judge"
    config = read_json(folder / "judge.json")
    with torch.device("meta"):
        judge = Judge(
            list(config["objects"]),
            list(config["styles"]),
            int(config["stem_width"]),
            list(config["block_widths"]),
        )
    file = folder / "judge.safetensors"
    weights = read_weights(file)
    counters = (name for name in judge.state_dict() if name.endswith("num_batches_tracked"))
    weights.update({name: torch.zeros((), dtype=torch.int64) for name in counters})
    fill_module(judge, weights, file)
    return judge
