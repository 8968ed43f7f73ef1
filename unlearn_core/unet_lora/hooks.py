"""A LoRA on a lent UNet by forward hooks: no weight is written to, and no hook stays behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import WrongModel
from ..lora.weights import LoraPair, LoraWeights
from ..models.adapter import ModelAdapter
from ..models.lent_model import LentModel

Layer = nn.Linear | nn.Conv2d
"""What a LoRA may change."""


def module_names(unet: nn.Module) -> dict[str, str]:
    """The name in a LoRA file of every layer of a diffusers UNet -> its own name.

    "down_blocks_0_attentions_0_proj_in" -> "down_blocks.0.attentions.0.proj_in".
    """
    return {
        name.replace(".", "_"): name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


@contextmanager
def hooked(unet: nn.Module, pairs: Mapping[str, LoraPair], strength: float = 1.0) -> Iterator[None]:
    """The UNet with a LoRA added, for the time of a `with` block.

    `pairs` under the names of `LoraWeights.unet`; each layer's output gets
    strength * alpha / rank * up(down(x)) (Hu et al. 2021, arXiv 2106.09685), computed in the
    factors' dtype. The factors may want a gradient. Raises WrongModel if the UNet lacks a layer or
    has another size there.
    """
    layers = _layers(unet, pairs)
    hooks = []
    try:
        for name, pair in pairs.items():
            hooks.append(layers[name].register_forward_hook(_adding(pair, strength)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class UnetPart:
    """What a LoRA changes in a lent UNet."""

    unet: nn.Module
    pairs: Mapping[str, LoraPair]

    @classmethod
    def of(cls, model: LentModel, lora: LoraWeights) -> UnetPart | None:
        """None where it leaves the UNet alone; raises WrongModel where the UNet is not lent."""
        if not lora.unet:
            return None
        if not isinstance(model, ModelAdapter):
            raise WrongModel("This LoRA changes the UNet, which is not lent here.")
        part = cls(model.unet, lora.unet)
        _layers(part.unet, part.pairs)  # what does not fit is said at once
        return part

    def at(self, strength: float) -> AbstractContextManager[None]:
        """As `hooked`; at strength 0 nothing hangs on the UNet."""
        return hooked(self.unet, self.pairs if strength else {}, strength)


@contextmanager
def unet_with_loras(model: LentModel, loras: Sequence[tuple[LoraWeights, float]]) -> Iterator[None]:
    """The lent UNet with what LoRAs at their strengths change in it; raises WrongModel."""
    with ExitStack() as stack:
        for lora, strength in loras:
            part = UnetPart.of(model, lora)
            if part is not None:
                stack.enter_context(part.at(strength))
        yield


def _layers(unet: nn.Module, pairs: Mapping[str, LoraPair]) -> dict[str, Layer]:
    names = module_names(unet)
    layers = {}
    for name, pair in pairs.items():
        if name not in names:
            raise WrongModel(
                f"This LoRA changes {name} of the UNet, which this model does not have in "
                "diffusers' layout. Choose the model that the LoRA was made for."
            )
        layer: Any = unet.get_submodule(names[name])
        wanted = tuple(layer.weight.shape)
        found = (pair.up.shape[0], *pair.down.shape[1:])
        if wanted != found:
            raise WrongModel(
                f"This LoRA changes {name} of the UNet as {_sizes(found)}, this model has "
                f"{_sizes(wanted)} there. Choose the model that the LoRA was made for."
            )
        layers[name] = layer
    return layers


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _adding(pair: LoraPair, strength: float) -> Any:
    scale = strength * pair.scale

    def add(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        down, up = (factor.to(output.device) for factor in (pair.down, pair.up))
        with torch.autocast(output.device.type, enabled=False):
            change = _change(layer, given[0].to(down.dtype), down, up)
        return output + (scale * change).to(output.dtype)

    return add


def _change(layer: nn.Module, entering: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """up(down(x)) as the layer itself runs over x."""
    if isinstance(layer, nn.Conv2d):
        narrow = functional.conv2d(
            entering, down, None, layer.stride, layer.padding, layer.dilation
        )
        return functional.conv2d(narrow, up)
    return functional.linear(functional.linear(entering, down), up)
