"""What can be done with finished LoRAs: merge several into one, and add one to a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .errors import BadSettings, WrongModel
from .lora_file import LoraPair, LoraWeights
from .lora_keys import ModuleKey, weight_name
from .tensor_file import is_finite


def merge_loras(loras: Sequence[tuple[LoraWeights, float]]) -> LoraWeights:
    """One LoRA whose change is the sum of the given ones, each times its strength.

    Exact, not a fit: ranks are joined end to end, float32. Strength and alpha are folded into `up`,
    and the greatest of them into the merged alpha, so that small numbers survive float16.
    Raises BadSettings for an empty list or a strength that is not finite, and WrongModel for LoRAs
    made for text encoders of different widths.
    """
    if not loras:
        raise BadSettings("There is no LoRA to merge: give at least one.")
    for _, strength in loras:
        _check_strength(strength)
    parts: dict[ModuleKey, list[tuple[LoraPair, float]]] = {}
    for lora, strength in loras:
        for key, pair in lora.pairs.items():
            parts.setdefault(key, []).append((pair, strength))
    names = ", ".join(
        f"{lora.metadata.get('ss_output_name', 'unnamed')}:{strength:g}" for lora, strength in loras
    )
    pairs = {key: _join(key, parts[key]) for key in sorted(parts)}
    return LoraWeights(pairs, {"unlearn_merged_from": names})


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


def _join(key: ModuleKey, parts: Sequence[tuple[LoraPair, float]]) -> LoraPair:
    shapes = {(pair.up.shape[0], pair.down.shape[1]) for pair, _ in parts}
    if len(shapes) > 1:
        raise WrongModel(
            f"These LoRAs were made for different text encoders: {key.module} of layer {key.layer} "
            f"is {' and '.join(f'{out} x {width}' for out, width in sorted(shapes))}."
        )
    factors = [strength * pair.scale for pair, strength in parts]
    greatest = max(abs(factor) for factor in factors) or 1.0
    ups = [
        pair.up.float() * (factor / greatest)
        for (pair, _), factor in zip(parts, factors, strict=True)
    ]
    down = torch.cat([pair.down.float() for pair, _ in parts])
    return LoraPair(down, torch.cat(ups, dim=1), alpha=greatest * down.shape[0])


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
