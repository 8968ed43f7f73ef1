"""The node Load Demo SD2."""

from __future__ import annotations

from comfy_api.latest import io

from .comfy_demo import load_demo
from .values import CATEGORY


class LoadDemoSd2(io.ComfyNode):
    """The small model that ships with this pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Outputs only."""
        return io.Schema(
            node_id="UnlearnDemoModel",
            display_name="Load Demo SD2",
            category=CATEGORY,
            description="A small Stable Diffusion 2 of 64 x 64 pixels that ships with this pack "
            "and knows a world of emoji: every template runs with it offline, on a CPU, in about a "
            "minute. Draw at 64 x 64.",
            inputs=[],
            outputs=[
                io.Model.Output(tooltip="Its UNet; predicts v."),
                io.Clip.Output(tooltip="Its text encoder, 192 wide."),
                io.Vae.Output(tooltip="Its VAE."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Read demo/."""
        return io.NodeOutput(*load_demo())
