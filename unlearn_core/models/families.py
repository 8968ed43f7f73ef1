"""The model families that this engine knows, and the one place that refuses all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import WrongModel
from ..text.tokenizer import ADDED_TOKENS, PAD, VOCABULARY

Prediction = Literal["epsilon", "v"]
"""What a UNet predicts: the noise, or the velocity (Salimans & Ho 2022, arXiv 2202.00512)."""
TIMESTEPS = 1000

_PREDICTIONS: Mapping[str, Prediction] = MappingProxyType(
    {"epsilon": "epsilon", "eps": "epsilon", "v": "v", "v_prediction": "v"}
)
_OTHER_INPUTS = {9: "an inpainting model", 5: "a depth model", 7: "an upscaler"}
SD1_WIDTH = 768
_PLAIN = "Use the plain text-to-image checkpoint"


@dataclass(frozen=True)
class TextTower:
    """One text encoder of a family, as it is published in full size."""

    part: str
    """What kohya's names of its LoRA begin with after `lora_`."""
    width: int
    layers: int
    conditioning_layer: int
    """Index of the layer whose state the UNet gets."""
    normed: bool
    """Whether the final LayerNorm is applied to that state."""
    pooled: bool
    """Whether the UNet gets its pooled vector too."""
    pad: int
    """The token behind the end of a prompt."""
    activation: str


@dataclass(frozen=True)
class Family:
    """What is alike in all models of one family, whatever their training."""

    name: str
    towers: tuple[TextTower, ...]
    channels: int
    """Of latents, and of what the UNet takes."""
    latent_edges: Mapping[Prediction, int]
    """The edge of latents that a model was trained at, where its config says nothing of it."""
    stock_edges: tuple[int | None, ...]
    """Edges that configs state whatever the model was trained at."""
    betas: tuple[float, float]
    """First and last of the noise schedule, linear in the square root."""
    vae_factor: int
    """How many times smaller latents are than pictures."""
    vae_scale: float
    """What the VAE's latents are multiplied by for the UNet."""
    file_metadata: Mapping[str, str]
    """What kohya's scripts write into a LoRA file of it."""

    @property
    def context_width(self) -> int:
        """Width of the text states that a full-size UNet takes."""
        return sum(tower.width for tower in self.towers)

    @property
    def last_layer(self) -> int:
        """Index of the last text layer that a LoRA file may name: later ones move nothing."""
        return self.towers[0].conditioning_layer

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


SD2 = Family(
    name="Stable Diffusion 2",
    towers=(
        TextTower(
            part="te",
            width=1024,
            layers=24,
            conditioning_layer=22,
            normed=True,
            pooled=False,
            pad=PAD,
            activation="gelu",
        ),
    ),
    channels=4,
    latent_edges=MappingProxyType({"epsilon": 64, "v": 96}),
    stock_edges=(None, 32, 64),
    betas=(0.00085, 0.012),
    vae_factor=8,
    vae_scale=0.18215,
    file_metadata=MappingProxyType({"ss_v2": "True", "ss_base_model_version": "sd_v2"}),
)


@dataclass(frozen=True)
class Seen:
    """What a file or a host shows of a model; None where it can't be told."""

    text_encoders: int = 1
    text_width: Any = None
    text_layers: Any = None
    activation: Any = None
    vocabulary: Any = None
    context_width: Any = None
    """Width of the text that the UNet takes."""
    channels: Any = None
    """That the UNet takes."""
    extra_conditions: bool = False
    """Whether the UNet takes anything but latents, timesteps and text."""
    architecture: str | None = None
    """What it is, if that is told otherwise: "Flux"."""


def recognise(seen: Seen, where: str = "") -> Family:
    """The family of a model of any size; `where` names the model in the message.

    Raises WrongModel for any other family, and for parts that are of two models.
    """
    reason = _why_not(seen, SD2)
    if reason is None:
        return SD2
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


def _why_not(seen: Seen, family: Family) -> str | None:
    (tower,) = family.towers
    needs, load = f"this pack needs {family.name}", f"Load a {family.name} checkpoint."
    if seen.architecture is not None:
        return f"this is {seen.architecture}; {needs}. {load}"
    if seen.text_encoders != len(family.towers):
        return (
            f"this is SDXL or a newer family: it has {seen.text_encoders} text encoders; {needs}, "
            f"which has one. {load}"
        )
    if SD1_WIDTH in (seen.text_width, seen.context_width):
        return f"this is SD 1.x: its text width is {SD1_WIDTH}; {needs} ({tower.width}). {load}"
    if seen.channels not in (None, family.channels):
        kind = "another kind of model"
        if isinstance(seen.channels, int):
            kind = _OTHER_INPUTS.get(seen.channels, kind)
        return (
            f"this is {kind}: its UNet takes {shown(seen.channels)} channels, {needs} "
            f"({family.channels}). {_PLAIN}."
        )
    if seen.extra_conditions:
        return f"its UNet takes extra conditions, as unCLIP's does; {needs}. {_PLAIN}."
    return _why_not_its_text(seen, family, tower)


def _why_not_its_text(seen: Seen, family: Family, tower: TextTower) -> str | None:
    if None not in (seen.text_width, seen.context_width) and seen.text_width != seen.context_width:
        return (
            f"its text encoder is {shown(seen.text_width)} wide and its UNet expects "
            f"{shown(seen.context_width)}: these parts are of two models. Take both from one "
            f"{family.name} checkpoint."
        )
    if seen.activation not in (None, tower.activation):
        return (
            f"its text encoder is not the OpenCLIP one of {family.name}: its activation is "
            f"{shown(seen.activation)}, not {tower.activation}."
        )
    if seen.vocabulary not in (None, VOCABULARY):
        return (
            f"its text encoder has {shown(seen.vocabulary)} tokens, {family.name} has "
            f"{VOCABULARY}. {ADDED_TOKENS}."
        )
    return None


def shown(value: Any) -> str:
    """A value from a config, cut short for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
