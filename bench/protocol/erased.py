"""What every method gives back, ours and the rivals': something to draw with, and its price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from unlearn_core.concept import Kind
from unlearn_core.lora.weights import LoraWeights
from unlearn_core.models.lent_model import LentModel
from unlearn_core.text.text_encoder import TextEncoder

Family = Literal["base", "text encoder", "UNet", "prompt"]


@dataclass(frozen=True)
class Erased:
    """A model after a method has worked on it; what the method did not change is shared."""

    model: LentModel
    """UNet and VAE; a method of the family "UNet" lends a changed copy of the UNet."""
    encoder: TextEncoder
    """The text encoder, with the method's LoRA or weights in it."""
    family: Family
    negative: str = ""
    """Prompt of the branch without the prompt: where "negative prompt" puts the concept."""
    seconds: float = 0.0
    """Wall time of the method, loading the model left out."""
    file_bytes: int = 0
    """Size of what the method hands on: a LoRA file, or the weights that it changed."""
    notes: dict[str, str] = field(default_factory=dict)
    """Such as the stand-in that was chosen."""
    lora: LoraWeights | None = None
    """What is in the encoder, where the method makes a LoRA."""


@dataclass(frozen=True)
class Task:
    """What a method is told to erase. Held-out synonyms are not in it."""

    name: str
    kind: Kind
    images: tuple[Tensor, ...] = ()
    """Five pictures, each (3, h, w) float32 in [-1, 1]; the attacks use others."""
    seed: int = 0
    keep: Sequence[str] = ()
    """Words that a method may use as its keep or prior-preservation set: `splits.kept_words`."""


class Method(Protocol):
    """A way to erase, with its settings bound: `base` is left as it was."""

    def __call__(self, base: Erased, task: Task) -> Erased:
        """Erase the task's concept from `base`; raises UnlearnError if it can't."""
