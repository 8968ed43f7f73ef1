"""One text encoder with a change, a LoRA or another encoder's weights, at any strength.

What a LoRA changes in the UNet goes with it while pictures are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from ..errors import WrongModel
from ..files.tensor_file import is_finite
from ..lora.keys import weight_name
from ..lora.weights import LoraWeights, apply_lora, check_family, check_fit
from ..models.devices import give_memory_back
from ..models.lent_model import LentModel, build_encoder
from ..text.text_encoder import TextEncoder
from ..text.tower_encoder import PROJECTION
from ..unet_lora.hooks import UnetPart

Changed = Callable[[float], Iterator[tuple[str, Tensor]]]
"""Names and weights of all that is changed, at a strength: 0 is before, 1 after. One at a time."""


class ScaledEncoder:
    """The lent model's text encoder, with the change at the strength that was set last.

    It begins at strength 0. Only the changed weights are written to.
    """

    def __init__(self, model: LentModel, weights: dict[str, Tensor], changed: Changed) -> None:
        """Copy `weights`; raises WrongModel if they are of no text encoder."""
        give_memory_back()  # what a run before has left
        self.encoder = build_encoder(model, weights)
        self._parameters = _parameters(self.encoder)
        self._changed = changed
        self._unet: UnetPart | None = None

    @classmethod
    def with_lora(cls, model: LentModel, lora: LoraWeights) -> ScaledEncoder:
        """The strength is the LoRA's; raises WrongModel if it doesn't fit the model."""
        check_family(lora, model.family)
        weights = model.text_encoder_weights()
        scaled = cls(model, weights, changed_by_lora(weights, lora))
        scaled._unet = UnetPart.of(model, lora)
        return scaled

    @classmethod
    def between(cls, model: LentModel, after: Mapping[str, Tensor]) -> ScaledEncoder:
        """The line from the lent weights to `after`; raises WrongModel if they don't fit."""
        weights = model.text_encoder_weights()
        return cls(model, weights, changed_between(weights, after))

    @torch.no_grad()
    def set_strength(self, strength: float) -> TextEncoder:
        """The encoder at this strength; raises BadSettings or WrongModel where it is too great."""
        for name, weight in self._changed(strength):
            parameter = self._parameters.get(name)
            if parameter is not None:  # a layer behind the last used one is not there
                parameter.data = parameter.data.float()
                parameter.copy_(weight)
        return self.encoder

    def unet_at(self, strength: float) -> AbstractContextManager[None]:
        """The lent UNet with the LoRA's part for it, for the time of a `with` block."""
        return nullcontext() if self._unet is None else self._unet.at(strength)


def changed_by_lora(weights: Mapping[str, Tensor], lora: LoraWeights) -> Changed:
    """Weights with a LoRA added; raises WrongModel if it doesn't fit them."""
    check_fit(weights, lora)
    before = {key: weights[weight_name(key)] for key in lora.pairs}

    def changed(strength: float) -> Iterator[tuple[str, Tensor]]:
        for key, pair in lora.pairs.items():
            alone = {weight_name(key): before[key]}
            yield from apply_lora(alone, LoraWeights({key: pair}), strength).items()

    return changed


def changed_between(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Changed:
    """Weights on the line through two text encoders; raises WrongModel if they don't fit."""
    shapes = [{name: weight.shape for name, weight in side.items()} for side in (before, after)]
    if shapes[0] != shapes[1]:
        raise WrongModel(
            "The text encoders before and after are of two different models: compare one CLIP with "
            "the same CLIP after forgetting."
        )
    ends = {n: (w, after[n]) for n, w in before.items() if not w.equal(after[n])}

    def changed(strength: float) -> Iterator[tuple[str, Tensor]]:
        for name, (first, last) in ends.items():
            weight = torch.lerp(first.float(), last.float(), strength)
            if not is_finite(weight):
                raise WrongModel(
                    f"At strength {strength:g} the text encoder's {name} is not finite: CLIP "
                    "carries a LoRA at too great a strength, or its file is broken."
                )
            yield name, weight

    return changed


def _parameters(encoder: TextEncoder) -> dict[str, nn.Parameter]:
    """By the names under which they are lent."""
    found: dict[str, nn.Parameter] = {}
    for part in encoder.towers:
        body = getattr(part.model, "text_model", part.model)
        named = dict(body.named_parameters())
        named["embeddings.token_embedding.weight"] = part.words.held
        prefix = f"{part.tower.prefix}text_model."
        found |= {f"{prefix}{name}": parameter for name, parameter in named.items()}
        if part.projection is not None:
            found[f"{part.tower.prefix}{PROJECTION}"] = nn.Parameter(part.projection, False)
    return found
