"""What the graph does with a node's CLIP afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..unlearn_core.errors import WrongModel
from ..unlearn_core.lora.weights import LoraWeights
from .comfy_clip import conditioning_layers_at, family_of

_LAST_LAYER = "CLIPSetLastLayer"
_PASSES_ON = {_LAST_LAYER: 0, "LoraLoader": 1, "UnlearnForget": 0, "UnlearnLoadLora": 0}
"""Nodes that take CLIP and give it out, and at which output."""


def notes_on_clip_skip(
    clip: Any, lora: LoraWeights, prompt: dict[str, Any], node_id: str
) -> Iterator[str]:
    """For each CLIP Set Last Layer after this node that leaves the LoRA without an effect.

    `prompt` is the graph in API format, and CLIP the first output of `node_id`.
    """
    for last in sorted(set(_last_layers(prompt, [node_id, 0]))):
        used = _layers_used(clip, last)
        changed = [key.layer for key in lora.pairs]
        if used is not None and min(changed) > used:
            yield (
                f"note: CLIP Set Last Layer {last} comes after this node. It stops at layer {used} "
                f"and the LoRA starts at {min(changed)}, so the LoRA has no effect there: put "
                "that node before this one."
            )


def _last_layers(prompt: dict[str, Any], output: list[Any]) -> Iterator[int]:
    for node_id, node in prompt.items():
        # Nodes that lead to no output were checked by nobody.
        kind, inputs = node.get("class_type"), node.get("inputs", {})
        if kind not in _PASSES_ON or inputs.get("clip") != output:
            continue
        last = inputs.get("stop_at_clip_layer")
        if kind == _LAST_LAYER and isinstance(last, int):
            yield last
        yield from _last_layers(prompt, [node_id, _PASSES_ON[kind]])


def _layers_used(clip: Any, last: int) -> int | None:
    """The last text layer that moves the picture; None where a pooled vector uses all of them."""
    if any(tower.pooled for tower in family_of(clip).towers):
        return None
    try:
        return max(conditioning_layers_at(clip, last))
    except WrongModel:  # above all that the family uses
        return None
