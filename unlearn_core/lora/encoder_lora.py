"""A PEFT LoRA on a private text encoder: attach, switch off, export, detach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadSettings
from ..settings import UnlearnSettings
from ..text.frozen_layers import FactorLinear, projections
from ..text.tower_encoder import TowerEncoder
from .keys import ATTENTION, MLP, TEXT, ModuleKey, text_module
from .weights import LoraPair, LoraWeights

_ADAPTER = "default"


def chosen_modules(
    settings: UnlearnSettings, conditioning_layer: int, pooling_layers: int = 0, part: str = TEXT
) -> list[ModuleKey]:
    """The projections of a tower that the settings name, layer by layer.

    The `pooling_layers` behind the conditioning layer move the pooled vector alone; they go along.
    """
    names = {"all": (*ATTENTION, *MLP), "attention": ATTENTION, "mlp": MLP}[settings.modules]
    layers = chosen_layers(settings.layers, conditioning_layer)
    if conditioning_layer in layers:
        layers += tuple(range(conditioning_layer + 1, conditioning_layer + 1 + pooling_layers))
    return [text_module(layer, name, part) for layer in layers for name in names]


def chosen_layers(layers: str, conditioning_layer: int) -> tuple[int, ...]:
    """The layer indices that `layers` means, of 0..conditioning_layer.

    Raises BadSettings when they reach beyond it, where a LoRA moves no state that is used.
    """
    parts = [_indices(part, conditioning_layer + 1) for part in layers.split(",")]
    chosen = {index for part in parts for index in part}
    if not all(parts) or min(chosen) < 0 or max(chosen) > conditioning_layer:
        raise BadSettings(
            f"layers is {layers!r}, but this model's text encoder is used up to layer "
            f"{conditioning_layer}, so layers 0 to {conditioning_layer} can be chosen."
        )
    return tuple(sorted(chosen))


def _indices(part: str, count: int) -> range:
    if part == "all":
        return range(count)
    if ":" in part:
        side, number = part.split(":")
        wanted = int(number)
        return range(count - wanted, count) if side == "last" else range(wanted)
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


class EncoderLora:
    """A LoRA attached to a tower's projections; `detach` takes it off again.

    Each changed projection computes W x + strength * (alpha / rank) * up (down x), with `down`
    (rank, in) and `up` (out, rank) in float32 and alpha = rank. `up` starts at zero, so the LoRA
    changes nothing before the first step.
    """

    def __init__(
        self,
        tower: TowerEncoder,
        modules: Sequence[ModuleKey],
        rank: int,
        generator: torch.Generator,
    ) -> None:
        """Attach; `down` is drawn from `generator`, not from the global one."""
        from peft import LoraConfig, inject_adapter_in_model

        self.tower = tower
        self.rank = rank
        self.modules = tuple(modules)
        config = LoraConfig(
            r=rank,
            lora_alpha=rank,
            lora_dropout=0.0,
            target_modules=[f"{key.layer}.{_place(key.module)}" for key in modules],
        )
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(config, tower.layers)
        for key in self.modules:
            self._hold_in_float32(self._layer(key))
            down = self.down(key)
            with torch.no_grad():
                drawn = torch.randn(down.shape, generator=generator) / down.shape[1] ** 0.5
                down.copy_(drawn)
        self._tail = projections(tower.layers[min(key.layer for key in self.modules) :])
        for projection in self._tail:
            projection.convert(tower.products)

    def _layer(self, key: ModuleKey) -> Any:
        return self.tower.layers[key.layer].get_submodule(_place(key.module))

    def _hold_in_float32(self, layer: Any) -> None:
        """peft gives factors the dtype of their projection, and would convert their input."""
        layer.cast_input_dtype_enabled = False
        for factors in (layer.lora_A, layer.lora_B):
            drawn = factors[_ADAPTER]
            factor = FactorLinear(drawn.in_features, drawn.out_features, bias=False, device="meta")
            factor.weight = nn.Parameter(drawn.weight.detach().float())
            factors[_ADAPTER] = factor

    def down(self, key: ModuleKey) -> nn.Parameter:
        """(rank, in) float32."""
        parameter: nn.Parameter = self._layer(key).lora_A[_ADAPTER].weight
        return parameter

    def up(self, key: ModuleKey) -> nn.Parameter:
        """(out, rank) float32."""
        parameter: nn.Parameter = self._layer(key).lora_B[_ADAPTER].weight
        return parameter

    def frozen(self, key: ModuleKey) -> nn.Linear:
        """The projection underneath."""
        linear = self._layer(key).base_layer
        assert isinstance(linear, nn.Linear)
        return linear

    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained."""
        return [p for key in self.modules for p in (self.down(key), self.up(key))]

    def set_strength(self, strength: float) -> None:
        """What the LoRA is multiplied with, as the strength of a LoRA loader."""
        for key in self.modules:
            self._layer(key).scaling[_ADAPTER] = strength

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The unchanged encoder, for the time of a `with` block."""
        layers = [self._layer(key) for key in self.modules]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    def export(self) -> LoraWeights:
        """A copy of the weights, without metadata."""
        pairs = {
            key: LoraPair(_copy(self.down(key)), _copy(self.up(key)), float(self.rank))
            for key in self.modules
        }
        return LoraWeights(pairs, {})

    def load(self, weights: LoraWeights) -> None:
        """Overwrite the weights with others of the same modules and rank."""
        with torch.no_grad():
            for key in self.modules:
                pair = weights.pairs[key]
                self.down(key).copy_(pair.down)
                self.up(key).copy_(pair.up * (pair.alpha / self.rank))

    def rest(self) -> None:
        """Let go of the converted weights that only training needs; it may be called again."""
        for projection in self._tail:
            projection.release()

    def detach(self) -> None:
        """Put the plain projections back."""
        for key in self.modules:
            owner_path, _, name = _place(key.module).rpartition(".")
            owner = self.tower.layers[key.layer].get_submodule(owner_path)
            setattr(owner, name, self.frozen(key))
        self.rest()
        del self.tower.layers.peft_config


@contextmanager
def all_disabled(loras: Sequence[EncoderLora]) -> Iterator[None]:
    """The unchanged towers, for the time of a `with` block."""
    with ExitStack() as stack:
        for lora in loras:
            stack.enter_context(lora.disabled())
        yield


@contextmanager
def captured(
    entering: Mapping[ModuleKey, nn.Module], leaving: Mapping[ModuleKey, nn.Module]
) -> Iterator[tuple[dict[ModuleKey, Tensor], dict[ModuleKey, Tensor]]]:
    """What last entered and last left these modules within the `with` block."""
    inputs: dict[ModuleKey, Tensor] = {}
    outputs: dict[ModuleKey, Tensor] = {}

    def entered(key: ModuleKey, given: tuple[Tensor, ...]) -> None:
        inputs[key] = given[0].detach()

    def left(key: ModuleKey, out: Tensor | tuple[Tensor, ...]) -> None:
        outputs[key] = (out[0] if isinstance(out, tuple) else out).detach()

    hooks = [
        module.register_forward_pre_hook(lambda _, given, key=key: entered(key, given))
        for key, module in entering.items()
    ] + [
        module.register_forward_hook(lambda _, __, out, key=key: left(key, out))
        for key, module in leaving.items()
    ]
    try:
        yield inputs, outputs
    finally:
        for hook in hooks:
            hook.remove()


def _copy(parameter: Tensor) -> Tensor:
    return parameter.detach().cpu().clone()


def _place(module: str) -> str:
    return f"mlp.{module}" if module in MLP else f"self_attn.{module}"
