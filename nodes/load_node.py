"""The node Load Text-Encoder LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..unlearn_core.lora.file import load_lora
from ..unlearn_core.lora.weights import LoraWeights
from .comfy_clip import conditioning_layers, family_of, with_lora
from .comfy_files import lora_names, lora_path
from .node_api import found_by, io
from .values import CATEGORY, said


class LoadTextEncoderLora(io.ComfyNode):
    """Puts a LoRA on CLIP alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            **found_by("load unlearning lora", "lora clip only", "erase concept", "unlearn"),
            node_id="UnlearnLoadLora",
            display_name="Load Text-Encoder LoRA",
            category=CATEGORY,
            description="Puts a LoRA of the text encoder on CLIP; no MODEL needed.",
            inputs=[
                io.Clip.Input(
                    "clip", tooltip="The CLIP of a Stable Diffusion 1, 2 or XL checkpoint."
                ),
                io.Combo.Input(
                    "lora_name", options=lora_names(), tooltip="A file in models/loras."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    tooltip="1 forgets, 0 changes nothing. Measure Forgetting shows which is best.",
                ),
            ],
            outputs=[io.Clip.Output(display_name="clip", tooltip="CLIP that has forgotten.")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, **_: object) -> int:
        """The file's time: another file of the same name is loaded anew."""
        return lora_path(lora_name).stat().st_mtime_ns

    @classmethod
    def execute(cls, clip: Any, lora_name: str, strength: float) -> io.NodeOutput:
        """Load the file onto a clone of CLIP."""
        lora = load_lora(lora_path(lora_name))
        changed = with_lora(clip, lora, strength)
        return io.NodeOutput(changed, ui=said("\n".join(_lines(clip, lora))))


def _lines(clip: Any, lora: LoraWeights) -> Iterator[str]:
    """What the LoRA changes in each text encoder, and notes."""
    towers = family_of(clip).towers
    for tower, used, which in zip(
        towers, conditioning_layers(clip), ("first", "second"), strict=False
    ):
        layers = [key.layer for key in lora.pairs if key.part == tower.part]
        if not layers:
            continue
        where = f" of the {which} text encoder" if len(towers) > 1 else ""
        yield f"changes {len(layers)} projections in layers {min(layers)} to {max(layers)}{where}"
        if max(layers) > used and not tower.pooled:
            yield (
                f"note: CLIP is used up to layer {used} (Clip Skip), so what lies above has no "
                "effect"
            )
    yield from (f"note: {note}" for note in lora.notes)
