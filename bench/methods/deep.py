"""The preset deep as a method: the text encoder's LoRA and the UNet's."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from torch import Tensor

from bench.methods.preset import Preset, with_lora
from bench.protocol.erased import Erased, Task
from unlearn_core.concept import Concept
from unlearn_core.errors import WrongModel
from unlearn_core.forgetting.unlearn import unlearn
from unlearn_core.lora.file import lora_bytes
from unlearn_core.lora.weights import LoraWeights
from unlearn_core.models.adapter import ModelAdapter
from unlearn_core.models.lent_model import Stoppable
from unlearn_core.progress import SilentMonitor
from unlearn_core.text.conditioning import Conditioning
from unlearn_core.unet_lora.deepen import deepen
from unlearn_core.unet_lora.hooks import UnetPart
from unlearn_core.unet_lora.settings import DEEP, TEXT_PRESET, DeepSettings

NAME = DEEP


class HookedModel(Stoppable):
    """A lent model whose UNet carries a LoRA while it predicts."""

    def __init__(self, model: ModelAdapter, lora: LoraWeights) -> None:
        """Raises WrongModel if the LoRA does not fit."""
        super().__init__(model, SilentMonitor())
        self._part = UnetPart(model.unet, lora.unet)

    def predict(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        """See LentModel."""
        with self._part.at(1.0):
            return super().predict(latents, timesteps, text)


def with_deep(base: Erased, lora: LoraWeights) -> Erased:
    """The base with a LoRA on its text encoder and its UNet; raises WrongModel."""
    if not isinstance(base.model, ModelAdapter):
        raise WrongModel("The preset deep needs a model whose UNet is lent.")
    hooked = HookedModel(base.model, lora)
    return dataclasses.replace(with_lora(base, lora), model=hooked, family="UNet", lora=None)


@dataclass(frozen=True)
class Deep:
    """The preset, told the name alone."""

    settings: DeepSettings = field(default_factory=DeepSettings)

    def __call__(self, base: Erased, task: Task) -> Erased:
        """See Method; raises UnlearnError."""
        if not isinstance(base.model, ModelAdapter):
            raise WrongModel("The preset deep needs a model whose UNet is lent.")
        text = Preset(TEXT_PRESET).settings.replace(seed=task.seed)
        quick = unlearn(base.model, Concept(task.name, kind=task.kind), text)
        settings = dataclasses.replace(self.settings, seed=task.seed)
        result = deepen(base.model, quick, settings, SilentMonitor())
        notes = {"stand-in": result.stand_in.word}
        return dataclasses.replace(
            with_deep(base, result.lora), notes=notes, file_bytes=len(lora_bytes(result.lora))
        )
