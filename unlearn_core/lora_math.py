"""Adding a finished LoRA to a text encoder's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from .errors import BadSettings, WrongModel
from .lora_file import LoraPair, LoraWeights
from .lora_keys import ModuleKey, weight_name
from .tensor_file import is_finite


def apply_lora(
    weights: Mapping[str, Tensor], lora: LoraWeights, strength: float = 1.0
) -> dict[str, Tensor]:
    """CLIPTextModel weights with a LoRA added: W + strength * up @ down * alpha / rank.

    `weights` under "text_model." names, left as they are. In the new dict the changed ones are
    float32 on their old device; all others, and at strength 0 every one, are the same tensors.
    Raises WrongModel if the LoRA names a layer that the model lacks or has another width, and
    BadSettings for a strength that is not finite, or that makes a weight so.
    """
    _check_strength(strength)
    check_fit(weights, lora)
    changed = dict(weights)
    if strength:
        for key, pair in lora.pairs.items():
            weight = weights[weight_name(key)]
            delta = pair.delta().to(weight.device)
            moved = weight.float() + strength * delta
            if not is_finite(moved):
                raise BadSettings(
                    f"At strength {strength:g} this LoRA makes {key.module} of text layer "
                    f"{key.layer} not finite: take a smaller strength, such as 1."
                )
            changed[weight_name(key)] = moved
    return changed


def check_fit(weights: Mapping[str, Tensor], lora: LoraWeights) -> None:
    """Raise WrongModel if the LoRA names a layer that these weights lack or of another width."""
    for key, pair in lora.pairs.items():
        _check_pair(weights, key, pair)


def _check_pair(weights: Mapping[str, Tensor], key: ModuleKey, pair: LoraPair) -> None:
    weight = weights.get(weight_name(key))
    if weight is None:
        raise WrongModel(
            f"This LoRA changes {key.module} of text layer {key.layer}, which this model does not "
            f"have: its text encoder has {_layer_count(weights)} layers. Choose the model that the "
            "LoRA was made for."
        )
    made_for = (pair.up.shape[0], pair.down.shape[1])
    if made_for == tuple(weight.shape):
        return
    width = pair.up.shape[0] if key.module == "fc2" else pair.down.shape[1]
    found = weight.shape[0] if key.module == "fc2" else weight.shape[1]
    if width != found:
        raise WrongModel(
            f"This LoRA was made for text width {width}, this model has {found}. Choose the model "
            "that the LoRA was made for."
        )
    raise WrongModel(
        f"This LoRA changes {key.module} of text layer {key.layer} as {made_for[0]} x "
        f"{made_for[1]}, this model has {weight.shape[0]} x {weight.shape[1]} there."
    )


def _layer_count(weights: Mapping[str, Tensor]) -> int:
    return sum(name.endswith(".self_attn.q_proj.weight") for name in weights)


def _check_strength(strength: float) -> None:
    if not math.isfinite(strength):
        raise BadSettings(f"The strength of a LoRA is {strength}: it must be a finite number.")
