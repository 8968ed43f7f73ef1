"""A LoRA's weights, and what they change in a text encoder's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import BadFile, BadSettings, WrongModel
from ..files.tensor_file import is_finite
from ..models.families import Family
from .keys import ATTENTION, ModuleKey, text_module, weight_name


@dataclass(frozen=True)
class LoraPair:
    """The change of one Linear: `up @ down * alpha / rank` is added to its weight.

    That of a convolution is a convolution of its own size, and then one of size 1.
    """

    down: Tensor
    """(rank, in) float; of a convolution (rank, in, k, k)."""
    up: Tensor
    """(out, rank) float; of a convolution (out, rank, 1, 1)."""
    alpha: float

    @property
    def rank(self) -> int:
        """Rows of `down` and columns of `up`."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """What `up @ down` is multiplied by: alpha / rank."""
        return self.alpha / self.rank

    def delta(self) -> Tensor:
        """The whole change of a Linear, (out, in) float32."""
        return self.up.float() @ self.down.float() * self.scale


@dataclass(frozen=True)
class LoraWeights:
    """A LoRA of a text encoder, and with the preset deep of the UNet too."""

    pairs: dict[ModuleKey, LoraPair]
    """Of the text encoder."""
    metadata: dict[str, str] = field(default_factory=dict)
    """The file's notes; ours are named `unlearn_*`, kohya's `ss_*`."""
    notes: tuple[str, ...] = ()
    """Sentences for the user about how the file was read."""
    family: Family | None = None
    """Of the model that it was made for; None where its file does not say."""
    unet: dict[str, LoraPair] = field(default_factory=dict)
    """Of the UNet, by diffusers' names of its layers with "_" for ".": "mid_block_..."."""

    def noting(self, notes: Mapping[str, str]) -> LoraWeights:
        """The same with further notes in its file."""
        return dataclasses.replace(self, metadata={**self.metadata, **notes})


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


def complete(lora: LoraWeights) -> LoraWeights:
    """The same LoRA with all of q, k, v and out wherever one of them is trained.

    The WebUI leaves an SD2 layer's attention out, without a word, unless all four are there; the
    new ones are zeros of the layer's rank. fc1 and fc2 stand alone. Sorted by layer.
    """
    pairs = dict(lora.pairs)
    for key, pair in lora.pairs.items():
        if key.module in ATTENTION:
            nothing = LoraPair(torch.zeros_like(pair.down), torch.zeros_like(pair.up), pair.alpha)
            for module in ATTENTION:
                pairs.setdefault(text_module(key.layer, module, key.part), nothing)
    ordered = {key: pairs[key] for key in sorted(pairs, key=_place)}
    return LoraWeights(ordered, dict(lora.metadata), family=lora.family, unet=dict(lora.unet))


def round_to_half(lora: LoraWeights) -> LoraWeights:
    """The LoRA as its file will hold it: float16 down and up (returned as float32), float32 alpha.

    Numbers for a report are taken on this one. Raises BadFile if a number is not finite in float16.
    """
    pairs = {key: _rounded(pair) for key, pair in lora.pairs.items()}
    unet = {name: _rounded(pair) for name, pair in lora.unet.items()}
    return LoraWeights(pairs, dict(lora.metadata), family=lora.family, unet=unet)


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


def check_family(lora: LoraWeights, family: Family) -> None:
    """Raise WrongModel for a LoRA of another family than the model's."""
    if lora.family is not None and lora.family is not family:
        raise WrongModel(
            f"This LoRA was made for {lora.family.name}, and this model is {family.name}: choose a "
            "model of the family that it was made for."
        )
    parts = {tower.part for tower in family.towers}
    if not {key.part for key in lora.pairs} <= parts:
        raise WrongModel(
            f"This LoRA was made for a model with {3 - len(parts)} text encoder(s), and "
            f"{family.name} has {len(parts)}: choose a model that it was made for."
        )


def _check_strength(strength: float) -> None:
    if not math.isfinite(strength):
        raise BadSettings(f"The strength of a LoRA is {strength}: it must be a finite number.")


def _rounded(pair: LoraPair) -> LoraPair:
    return LoraPair(_half(pair.down).float(), _half(pair.up).float(), float(_single(pair.alpha)))


def _half(tensor: Tensor) -> Tensor:
    return _finite(tensor.detach().to(torch.float16))


def _single(alpha: float) -> Tensor:
    return _finite(torch.tensor(alpha, dtype=torch.float32))


def _finite(tensor: Tensor) -> Tensor:
    if not bool(tensor.isfinite().all()):
        raise BadFile(
            "This LoRA holds numbers that are not finite in the precision of its file, so training "
            "has gone wrong: train again with a lower learning rate."
        )
    return tensor


def _place(key: ModuleKey) -> tuple[str, int, str]:
    return key.part, key.layer, key.module
