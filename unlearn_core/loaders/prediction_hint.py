"""What a UNet predicts, guessed by its weights where nothing says it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..models.lent_model import Prediction

SINGLE_FILE_HINT = (
    "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "output_blocks.11's norm1.bias",
)
"""The hint's name in a single file, and how a line for the user calls it."""
FOLDER_HINT = (
    "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
    "up_blocks.3.attentions.2's norm1.bias",
)
"""The same weight under diffusers' name."""
_SPREAD = 0.09
"""Above it the weights are of a v model; the hint and its bound are ComfyUI's (SD20.model_type)."""


def guess_prediction(
    weights: Mapping[str, Tensor], hint: tuple[str, str]
) -> tuple[Prediction, str]:
    """What a UNet with these weights predicts, and the ground of the guess in words."""
    name, called = hint
    if name not in weights:
        return "epsilon", "guessed: the weights hold no hint; if pictures are noise, ask for v"
    spread = float(weights[name].float().std(unbiased=False))
    side = "above" if spread > _SPREAD else "not above"
    ground = f"guessed: the spread of {called}, {spread:.3f}, is {side} {_SPREAD}"
    return ("v" if spread > _SPREAD else "epsilon"), ground
