"""A family at its full size with random weights, lent as a host lends it.

Speed and memory do not depend on what the weights are; nothing about quality can be learned from
them. They are small, and norms have scales near 1, so that predictions stay finite in half
precision too.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.protocol.cost import CPU
from unlearn_core.errors import BadSettings
from unlearn_core.loaders.diffusers_model import DiffusersModel
from unlearn_core.loaders.model_configs import published_configs
from unlearn_core.loaders.model_files import PROJECTION, TEXT_PREFIX, fill_module
from unlearn_core.loaders.pipeline_parts import assemble_pipeline, empty_parts
from unlearn_core.models.devices import default_compute_dtype, free_memory
from unlearn_core.models.families import SD2, Family, Prediction
from unlearn_core.models.lent_model import LentModel

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

LAYERS = 24
V_SIZE = 768
"""Edge in pixels from which a model predicts v: SD2 itself; SD2-base, 512, predicts epsilon."""
SCALE = 0.02
"""Of the weights."""
NOISE_LENGTH = 1_048_573
"""Random numbers that are drawn, again and again the same: a prime, so that rows differ."""
_DRAWN = Path("random weights")


@dataclass(frozen=True)
class Host:
    """What is lent, and where."""

    device: torch.device = CPU
    size: int = 512
    """Edge of a picture in pixels."""
    text_dtype: torch.dtype = torch.float16
    """Of the text encoder's weights."""
    dtype: torch.dtype | None = None
    """What the UNet computes in; None: the fastest that is precise enough."""
    memory_cap: int | None = None
    """Bytes of the GPU's memory that torch may hold, weights and all."""
    layers: int = LAYERS
    """Of SD2's text encoder; the last one is left unused."""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Part ("unet", "vae", "text_encoder") -> what differs in its config from the family's."""
    family: Family = SD2

    def check(self) -> None:
        """Raise BadSettings for what can't be lent here."""
        if self.size < 64 or self.size % 64:
            raise BadSettings(f"The size is {self.size}; it must be a multiple of 64 pixels.")
        if self.device.type == "cuda":
            if not torch.cuda.is_available():
                raise BadSettings("There is no CUDA device here; use --device cpu.")
        elif self.memory_cap is not None:
            raise BadSettings("Memory can be capped on a CUDA device only.")
        if self.memory_cap is not None:
            has = torch.cuda.get_device_properties(self.device).total_memory
            if not 0 < self.memory_cap <= has:
                raise BadSettings(
                    f"The memory cap is {self.memory_cap / 1e9:.1f} GB; it must be above 0, and "
                    f"the device has {has / 1e9:.1f} GB."
                )

    @property
    def prediction(self) -> Prediction:
        """What the UNet predicts."""
        return "v" if self.family is SD2 and self.size >= V_SIZE else "epsilon"

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the UNet computes in."""
        return self.dtype or default_compute_dtype(self.device)

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """Of each part, as files of diffusers hold them; the text encoder has its used layers."""
        own: dict[str, dict[str, Any]] = {
            "unet": {"sample_size": self.size // 8},
            "text_encoder": {"num_hidden_layers": self.layers - 1} if self.family is SD2 else {},
            "scheduler": {
                "prediction_type": "v_prediction" if self.prediction == "v" else "epsilon"
            },
        }
        return {
            part: {
                **config,
                **own.get(part, {}),
                **self.changes.get(part, {}),
            }
            for part, config in published_configs(self.family).items()
        }

    def free_memory(self, unet: nn.Module) -> int | None:
        """What a GPU with no more memory than the cap would have free, see LentModel."""
        free = free_memory(self.device, unet)
        if free is None or self.memory_cap is None:
            return free
        return max(0, min(free, self.memory_cap - torch.cuda.memory_allocated(self.device)))


SD2_BASE = Host()


class RandomTextModel(LentModel):
    """A host's model of which only the text encoder is there."""

    def __init__(self, host: Host = SD2_BASE) -> None:
        """Draw the weights of all towers; where the last layer is not used, it is there too."""
        self._host, self.family = host, host.family
        self.device, self.compute_dtype = host.device, host.compute_dtype
        self.prediction, self.native_size = host.prediction, host.size
        self.alphas_cumprod = torch.linspace(0.999, 0.005, 1000)
        configs = host.configs
        texts = [configs[name] for name in ("text_encoder", "text_encoder_2") if name in configs]
        self.conditioning_layers = tuple(t.conditioning_layer for t in self.family.towers)
        if self.family is SD2:
            self.conditioning_layers = (host.layers - 2,)
            texts[0]["num_hidden_layers"] += 1
        _, _, *encoders = empty_parts(configs["unet"], configs["vae"], *texts)
        self._weights: dict[str, Tensor] = {}
        for encoder, tower in zip(encoders, self.family.towers, strict=True):
            weights = random_weights(module_shapes(encoder), host.text_dtype, host.device)
            for name, weight in weights.items():
                whole = name if name == PROJECTION else TEXT_PREFIX + name.removeprefix(TEXT_PREFIX)
                self._weights[tower.prefix + whole] = weight

    def free_memory(self) -> int | None:
        """See LentModel."""
        return self._host.free_memory(nn.Module())

    def text_encoder_weights(self) -> dict[str, Tensor]:
        """See LentModel."""
        return dict(self._weights)


class RandomModel(DiffusersModel):
    """A host's whole model."""

    def __init__(self, host: Host) -> None:
        """Draw the weights where they lie; on a CPU those of UNet and VAE are float32."""
        super().__init__(random_pipeline(host), host.compute_dtype)
        self._host = host

    def free_memory(self) -> int | None:
        """See LentModel."""
        return self._host.free_memory(self._pipeline.unet)

    @property
    def unet_bytes(self) -> int:
        """Of the UNet's weights, as they are lent."""
        return sum(p.numel() * p.element_size() for p in self._pipeline.unet.parameters())


def random_pipeline(host: Host) -> StableDiffusionPipeline:
    """A frozen pipeline on the host's device, in the dtypes in which a loader puts it there."""
    configs, dtype = host.configs, host.compute_dtype
    dtype = dtype if host.device.type == "cuda" else torch.float32
    names = [name for name in ("unet", "vae", "text_encoder", "text_encoder_2") if name in configs]
    parts = empty_parts(*(configs[name] for name in names))
    for name, part in zip(names, parts, strict=True):
        held = host.text_dtype if name.startswith("text") else dtype
        fill_module(part, random_weights(module_shapes(part), held, host.device), _DRAWN, held)
        part.to(host.device)  # what is no weight: the places of the text encoder
    return assemble_pipeline(host.family, configs["scheduler"], *parts)


def module_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Of each weight of a module, which may have no memory."""
    return {name: value.shape for name, value in module.state_dict().items() if "_ids" not in name}


def random_weights(
    shapes: Mapping[str, torch.Size], dtype: torch.dtype, device: torch.device = CPU
) -> dict[str, Tensor]:
    """A value for each name and shape.

    All but the norms' scales are views of one stretch of noise, each from another place on.
    """
    noise = torch.randn(NOISE_LENGTH, generator=torch.Generator().manual_seed(0))
    noise = noise.mul_(SCALE).to(device, dtype)
    longest = max(shape.numel() for shape in shapes.values())
    noise = noise.repeat(longest // NOISE_LENGTH + 2)
    weights = {}
    for name, shape in shapes.items():
        start = zlib.crc32(name.encode()) % NOISE_LENGTH
        value = noise[start : start + shape.numel()].view(shape)
        is_scale = len(shape) == 1 and name.endswith(".weight")
        weights[name] = value + 1 if is_scale else value
    return weights


def random_pictures(size: int, count: int, seed: int) -> tuple[Tensor, ...]:
    """Each (3, size, size) float32 in [-1, 1], on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(count, 3, size, size, generator=generator) * 2 - 1)
