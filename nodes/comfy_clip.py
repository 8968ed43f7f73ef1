"""ComfyUI's CLIP: which layer conditions the picture, its weights, a LoRA on top of it."""

from __future__ import annotations

from typing import Any

import comfy.lora
import comfy.sd
import torch
from safetensors.torch import load
from torch import Tensor

from ..unlearn_core.errors import WrongModel
from ..unlearn_core.lora.file import lora_bytes
from ..unlearn_core.lora.weights import LoraWeights, check_fit
from ..unlearn_core.models.families import SD2, Seen, recognise

_ROOT = "clip_h.transformer."
_PREFIX = f"{_ROOT}text_model."


def active_layer(clip: Any) -> int:
    """The text encoder layer that conditions the picture: 22, or less with Clip Skip.

    Raises WrongModel for the CLIP of a family that is not known.
    """
    stage = clip.cond_stage_model
    recognise(_seen(stage), "CLIP")
    text = stage.clip_h
    index = clip.layer_idx if clip.layer_idx is not None else text.options_default[1]
    count = int(text.num_layers)
    # ComfyUI takes the last layer where this many are not there.
    layer = count + index if index is not None and -count <= index < 0 else count - 1
    highest = min(SD2.towers[0].last_layer, count - 2)
    if layer > highest:
        raise WrongModel(
            f"CLIP gives what its last layer of {count} makes, which {SD2.name} never uses and no "
            "LoRA file can name: take CLIP Set Last Layer out, or set it between "
            f"{highest - count} and {-count}."
        )
    return layer


def text_weights(clip: Any, alone: bool = False) -> dict[str, Tensor]:
    """CLIPTextModel weights, copied to float32, with the LoRAs that CLIP carries unless `alone`."""
    weights = {}
    for key, (first, *patches) in clip.patcher.get_key_patches(_PREFIX).items():
        stored, convert = first
        value = convert(stored, inplace=False).detach().to("cpu", torch.float32, copy=True)
        if patches and not alone:
            value = comfy.lora.calculate_weight(patches, value, key)
        if "position_ids" not in key:
            weights[key.removeprefix(_ROOT)] = value
    return weights


def text_width(clip: Any) -> int:
    """Width of the text encoder's states: 1024 on SD2."""
    return int(clip.cond_stage_model.clip_h.transformer.get_input_embeddings().weight.shape[1])


def has_loras(clip: Any) -> bool:
    """Whether CLIP carries LoRAs already."""
    return any(key.startswith(_PREFIX) for key in clip.patcher.patches)


def with_lora(clip: Any, lora: LoraWeights, strength: float) -> Any:
    """CLIP with the LoRA as its file holds it, in a clone; raises WrongModel if it doesn't fit."""
    active_layer(clip)
    stored = clip.patcher.get_key_patches(_PREFIX).items()
    check_fit({key.removeprefix(_ROOT): first[0] for key, (first, *_) in stored}, lora)
    _, changed = comfy.sd.load_lora_for_models(None, clip, load(lora_bytes(lora)), 0, strength)
    return changed


def _seen(stage: Any) -> Seen:
    if hasattr(stage, "clip_g"):
        return Seen(text_encoders=2)
    if hasattr(stage, "clip_l"):
        width = stage.clip_l.transformer.get_input_embeddings().weight.shape[1]
        return Seen(text_width=int(width))
    if not hasattr(stage, "clip_h"):
        return Seen(architecture=f"of another model ({type(stage).__name__})")
    return Seen()
