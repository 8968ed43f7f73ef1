"""The node Load Demo Model."""

from __future__ import annotations

from pathlib import Path

import torch

from ..unlearn_core.files.pictures import read_pictures
from ..unlearn_core.loaders.demo_model import demo_folder
from .comfy_demo import FAMILIES, load_demo
from .node_api import found_by, io
from .values import CATEGORY_DEMO, as_image


class LoadDemoModel(io.ComfyNode):
    """The small models that ship with this pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            **found_by("unlearn demo", "emoji", "tiny model", "offline example"),
            node_id="UnlearnDemoModel",
            display_name="Load Demo Model",
            category=CATEGORY_DEMO,
            description="A small Stable Diffusion model of 64 x 64 pixels that ships with this "
            "pack and knows a world of emoji: templates that start with it run offline, on a CPU, "
            "in about two minutes. Draw at 64 x 64.",
            inputs=[
                io.Combo.Input(
                    "pictures",
                    options=sorted(path.name for path in _pictures().iterdir()),
                    default="dog",
                    tooltip="Which five pictures to give out: to try Invert Concept and Forget "
                    "Concept with.",
                ),
                io.Combo.Input(
                    "family",
                    options=list(FAMILIES),
                    default=FAMILIES[0],
                    optional=True,
                    tooltip="Which of the small models: one built as Stable Diffusion 2, 1 or XL.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="Its UNet; predicts v."),
                io.Clip.Output(tooltip="Its text encoder, 192 wide; for sdxl two of them."),
                io.Vae.Output(tooltip="Its VAE."),
                io.Image.Output(display_name="pictures", tooltip="Five pictures of the concept."),
            ],
        )

    @classmethod
    def execute(cls, pictures: str, family: str = FAMILIES[0]) -> io.NodeOutput:
        """Read demo/."""
        images = as_image(torch.stack(read_pictures(_pictures() / pictures)))
        return io.NodeOutput(*load_demo(family), images)


def _pictures() -> Path:
    return demo_folder() / "pictures"
