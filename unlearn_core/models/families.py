"""The model families that this engine knows, and the one place that refuses all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import WrongModel
from ..text.clip_model import TextTower
from ..text.tokenizer import ADDED_TOKENS, EOS, PAD, VOCABULARY

Prediction = Literal["epsilon", "v"]
"""What a UNet predicts: the noise, or the velocity (Salimans & Ho 2022, arXiv 2202.00512)."""
TIMESTEPS = 1000

_PREDICTIONS: Mapping[str, Prediction] = MappingProxyType(
    {"epsilon": "epsilon", "eps": "epsilon", "v": "v", "v_prediction": "v"}
)
_OTHER_INPUTS = {
    "9": "an inpainting model",
    "8": "an editing model",
    "7": "an upscaler",
    "5": "a depth model",
}
_PLAIN = "Use the plain text-to-image checkpoint"


@dataclass(frozen=True)
class Family:
    """What is alike in all models of one family, whatever their training."""

    key: str
    """What files and options call it."""
    name: str
    towers: tuple[TextTower, ...]
    latent_edges: Mapping[Prediction, int]
    """The edge of latents that a model was trained at, where its config says nothing of it."""
    vae_scale: float
    """What the VAE's latents are multiplied by for the UNet."""
    file_metadata: Mapping[str, str]
    """What kohya's scripts write into a LoRA file of it."""
    stock_edges: tuple[int | None, ...] = (None, 32)
    """Edges that configs state whatever the model was trained at."""
    betas: tuple[float, float] = (0.00085, 0.012)
    """First and last of the noise schedule, linear in the square root."""
    vae_factor: int = 8
    """How many times smaller latents are than pictures."""
    channels: int = 4
    """Of latents, and of what the UNet takes."""

    @property
    def pooled(self) -> bool:
        """Whether the UNet takes a pooled vector, and the sizes of the picture beside it."""
        return any(tower.pooled for tower in self.towers)

    @property
    def context_width(self) -> int:
        """Width of the text states that a full-size UNet takes."""
        return sum(tower.width for tower in self.towers)

    def alphas_cumprod(self) -> Tensor:
        """The noise schedule where a model states none: (1000,) float32, decreasing in (0, 1)."""
        first, last = (beta**0.5 for beta in self.betas)
        return torch.cumprod(1 - torch.linspace(first, last, TIMESTEPS) ** 2, 0)

    def native_size(self, stated: int | None, prediction: Prediction) -> int:
        """Edge of a picture in pixels, from the edge of latents that a config states, if it does.

        Where it states what all configs do, the prediction tells.
        """
        if stated is None or stated in self.stock_edges:
            stated = self.latent_edges[prediction]
        return self.vae_factor * stated


_CLIP_L = TextTower(
    "te", 768, 12, conditioning_layer=11, normed=True, pad=EOS, activation="quick_gelu"
)
_CLIP_H = TextTower("te", 1024, 24, conditioning_layer=22, normed=True, pad=PAD, activation="gelu")
_CLIP_G = TextTower(
    "te2", 1280, 32, conditioning_layer=30, normed=False, pad=PAD, activation="gelu", pooled=True
)
SD1 = Family(
    key="sd1",
    name="Stable Diffusion 1",
    towers=(_CLIP_L,),
    latent_edges=MappingProxyType({"epsilon": 64, "v": 64}),
    vae_scale=0.18215,
    file_metadata=MappingProxyType({"ss_v2": "False", "ss_base_model_version": "sd_v1"}),
)
SD2 = Family(
    key="sd2",
    name="Stable Diffusion 2",
    towers=(_CLIP_H,),
    latent_edges=MappingProxyType({"epsilon": 64, "v": 96}),
    stock_edges=(None, 32, 64),
    vae_scale=0.18215,
    file_metadata=MappingProxyType({"ss_v2": "True", "ss_base_model_version": "sd_v2"}),
)
SDXL = Family(
    key="sdxl",
    name="SDXL",
    towers=(replace(_CLIP_L, part="te1", conditioning_layer=10, normed=False), _CLIP_G),
    latent_edges=MappingProxyType({"epsilon": 128, "v": 128}),
    vae_scale=0.13025,
    file_metadata=MappingProxyType({"ss_v2": "False", "ss_base_model_version": "sdxl_base_v1-0"}),
)
FAMILIES = (SD1, SD2, SDXL)
_ALL = "this pack needs Stable Diffusion 1, Stable Diffusion 2 or SDXL"


@dataclass(frozen=True)
class Seen:
    """What a file or a host shows of a model; None where it can't be told."""

    text_encoders: int = 1
    text_width: Any = None
    """Of all text encoders side by side."""
    activations: tuple[Any, ...] = ()
    """Of each text encoder."""
    vocabulary: Any = None
    context_width: Any = None
    """Width of the text that the UNet takes."""
    channels: Any = None
    """That the UNet takes."""
    linear_projections: bool | None = None
    """Whether the UNet's transformers begin and end with a Linear, not with a convolution."""
    pooled: bool | None = None
    """Whether the UNet takes a pooled vector and the sizes of the picture."""
    extra_conditions: bool = False
    """Whether the UNet takes anything else but latents, timesteps and text."""
    architecture: str | None = None
    """What it is, if that is told otherwise: "Flux"."""


def recognise(seen: Seen, where: str = "") -> Family:
    """The family of a model of any size; `where` names the model in the message.

    A model with one text encoder of which nothing tells the family is taken for SD2. Raises
    WrongModel for any other family, and for parts that are of two models.
    """
    family = _nearest(seen)
    reason = _why_unknown(seen) or _why_not(seen, family)
    if reason is None:
        return family
    raise WrongModel(f"{where}: {reason}" if where else reason[0].upper() + reason[1:])


def prediction_named(name: object, remedy: str = "") -> Prediction:
    """What a config or a host calls it; raises WrongModel for another, and says the remedy."""
    found = _PREDICTIONS.get(str(name))
    if found is None:
        raise WrongModel(
            f"The UNet predicts {str(name)[:60]}; this pack needs epsilon or v_prediction."
            + (f" {remedy}" if remedy else "")
        )
    return found


def _nearest(seen: Seen) -> Family:
    """By the number of text encoders, then by what tells the two families with one."""
    if seen.text_encoders > 1:
        return SDXL
    for family in (SD1, SD2):
        if family.context_width in (seen.text_width, seen.context_width):
            return family
    if seen.activations:
        return SD1 if seen.activations[0] == _CLIP_L.activation else SD2
    return SD1 if seen.linear_projections is False else SD2


def _why_unknown(seen: Seen) -> str | None:
    if seen.architecture is not None:
        return f"this is {seen.architecture}; {_ALL}."
    if seen.text_encoders not in (1, 2):
        return f"this is of another family: it has {seen.text_encoders} text encoders; {_ALL}."
    one = seen.text_encoders == 1
    if one and (seen.pooled or _CLIP_G.width in (seen.text_width, seen.context_width)):
        return "this is SDXL's refiner: it lacks the first text encoder. Use the base checkpoint."
    return None


def _why_not(seen: Seen, family: Family) -> str | None:
    if seen.channels not in (None, family.channels):
        count = shown(seen.channels)
        return (
            f"this is {_OTHER_INPUTS.get(count, 'another kind of model')}: its UNet takes {count} "
            f"channels, {family.name}'s takes {family.channels}. {_PLAIN}."
        )
    if seen.extra_conditions:
        return f"its UNet takes other conditions than {family.name}'s, as unCLIP's does. {_PLAIN}."
    return _why_not_its_text(seen, family)


def _why_not_its_text(seen: Seen, family: Family) -> str | None:
    both = "these parts are of two models. Take both from one checkpoint."
    if None not in (seen.text_width, seen.context_width) and seen.text_width != seen.context_width:
        encoders = "text encoder is" if seen.text_encoders == 1 else "text encoders together are"
        return (
            f"its {encoders} {shown(seen.text_width)} wide and its UNet expects "
            f"{shown(seen.context_width)}: {both}"
        )
    if family.pooled and seen.pooled is False:
        return f"it has two text encoders and a UNet that takes no pooled vector: {both}"
    for found, tower in zip(seen.activations, family.towers, strict=False):
        if found != tower.activation:
            its = f"its activation is {shown(found)}, not {tower.activation}"
            return f"its text encoder is not that of {family.name}: {its}."
    if seen.vocabulary not in (None, VOCABULARY):
        found = shown(seen.vocabulary)
        return f"its text encoder has {found} tokens, not {VOCABULARY}. {ADDED_TOKENS}."
    return None


def shown(value: Any) -> str:
    """A value from a config, cut short for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
