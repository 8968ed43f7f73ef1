"""ComfyUI's CLIP: its family, the layers that condition the picture, its weights, a LoRA on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import comfy.lora
import comfy.sd
import torch
from comfy.clip_model import ACTIVATIONS
from comfy.sd1_clip import SD1ClipModel, SDClipModel
from comfy.sdxl_clip import SDXLClipModel, SDXLRefinerClipModel
from safetensors.torch import load
from torch import Tensor

from ..unlearn_core.errors import WrongModel
from ..unlearn_core.lora.file import lora_bytes
from ..unlearn_core.lora.weights import LoraWeights, check_family, check_fit
from ..unlearn_core.models.families import Family, Seen, recognise
from ..unlearn_core.text.clip_model import TextTower
from ..unlearn_core.text.tower_encoder import PROJECTION

_ONE, _TWO, _REFINER = (["clip_l"], ["clip_h"]), ["clip_l", "clip_g"], ["clip_g"]


def seen_of(clip: Any) -> Seen:
    """What CLIP shows of its family."""
    stage = clip.cond_stage_model
    texts = [part for _, part in _text_encoders(stage)]
    names = [name for name, _ in _text_encoders(stage)]
    if not (
        (names in _ONE and isinstance(stage, SD1ClipModel))
        or (names == _TWO and isinstance(stage, SDXLClipModel))
        or (names == _REFINER and isinstance(stage, SDXLRefinerClipModel))
    ):
        return Seen(architecture=f"of another model ({type(stage).__name__.rstrip('_')})")
    return Seen(
        text_encoders=len(texts),
        text_width=sum(text.transformer.get_input_embeddings().weight.shape[1] for text in texts),
        activations=tuple(map(_activation, texts)),
        pooled=True if names == _REFINER else None,
    )


def family_of(clip: Any) -> Family:
    """Raises WrongModel for the CLIP of a family that is not known."""
    return recognise(seen_of(clip), "CLIP")


def conditioning_layers(clip: Any) -> tuple[int, ...]:
    """Of each text encoder the layer that conditions the picture, see LentModel.

    CLIP Set Last Layer moves all of them. Raises WrongModel for the CLIP of a family that is not
    known, and for a layer that the family never uses.
    """
    family = family_of(clip)
    return tuple(
        _conditioning_layer(clip, text, family) for _, text in _text_encoders(clip.cond_stage_model)
    )


def clip_skip(clip: Any) -> int | None:
    """What CLIP Set Last Layer is set to, where that is not what the family is used with."""
    usual = {_usual_layer(text) for _, text in _text_encoders(clip.cond_stage_model)}
    return None if clip.layer_idx in usual else clip.layer_idx


def conditioning_layers_at(clip: Any, last: int) -> tuple[int, ...]:
    """`conditioning_layers` behind a CLIP Set Last Layer of this value; raises as that does."""
    moved = clip.clone()
    moved.clip_layer(last)
    return conditioning_layers(moved)


def text_weights(clip: Any, alone: bool = False) -> dict[str, Tensor]:
    """As LentModel wants them, float32 copies; with the LoRAs that CLIP carries unless `alone`."""
    weights = {}
    for name, key, (first, *patches) in _stored(clip):
        stored, convert = first
        value = convert(stored, inplace=False).detach().to("cpu", torch.float32, copy=True)
        if patches and not alone:
            value = comfy.lora.calculate_weight(patches, value, key)
        weights[name] = value
    return weights


def has_loras(clip: Any) -> bool:
    """Whether CLIP carries LoRAs already."""
    return bool(clip.patcher.patches)


def with_lora(clip: Any, lora: LoraWeights, strength: float) -> Any:
    """CLIP with the LoRA as its file holds it, in a clone; raises WrongModel if it doesn't fit."""
    conditioning_layers(clip)
    family = family_of(clip)
    check_family(lora, family)
    check_fit({name: first[0] for name, _, (first, *_) in _stored(clip)}, lora)
    file = load(lora_bytes(replace(lora, family=family)))
    _, changed = comfy.sd.load_lora_for_models(None, clip, file, 0, strength)
    return changed


def _text_encoders(stage: Any) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in stage.named_children() if isinstance(part, SDClipModel)]


def _activation(text: Any) -> Any:
    used = text.transformer.text_model.encoder.layers[0].mlp.activation
    return next((name for name, known in ACTIVATIONS.items() if known is used), "unknown")


def _usual_layer(text: Any) -> int:
    """Counted from the end: -1 where ComfyUI takes the last one."""
    return -1 if text.options_default[1] is None else int(text.options_default[1])


def _conditioning_layer(clip: Any, text: Any, family: Family) -> int:
    usual = _usual_layer(text)
    index = usual if clip.layer_idx is None else clip.layer_idx
    count = int(text.num_layers)
    # ComfyUI takes the last layer where this many are not there.
    layer = count + index if -count <= index < 0 else count - 1
    if layer > count + usual:
        raise WrongModel(
            f"CLIP gives what its last layer of {count} makes, which {family.name} never uses and "
            "no LoRA file can name: take CLIP Set Last Layer out, or set it between "
            f"{usual} and {-count}."
        )
    return layer


def _stored(clip: Any) -> Iterator[tuple[str, str, Any]]:
    """(as it is lent, ComfyUI's key, the stored weight and its patches) of each weight."""
    texts = _text_encoders(clip.cond_stage_model)
    for tower, (name, _) in zip(family_of(clip).towers, texts, strict=True):
        root = f"{name}.transformer."
        for key, weight in clip.patcher.get_key_patches(root).items():
            own = key.removeprefix(root)
            if _is_lent(own, tower):
                yield tower.prefix + own, key, weight


def _is_lent(name: str, tower: TextTower) -> bool:
    return name.startswith("text_model.") or (tower.pooled and name == PROJECTION)
