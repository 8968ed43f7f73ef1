"""Tiny models of the other families: SD1, and SDXL with two towers of different widths."""

from __future__ import annotations

from functools import cache

import torch
from tiny_model import KNOWN_WORDS, TinyModel, draw
from torch import Tensor

from unlearn_core.models.families import SD1, SDXL, Family
from unlearn_core.text.conditioning import Conditioning
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import BOS, CHUNK, EOS, PAD, VOCABULARY, tokenize

SIZES = {"te": (64, 96, 3), "te1": (64, 96, 4), "te2": (128, 160, 5)}
"""Part -> width, width of the MLP's middle, layers."""
CONDITIONING = {"te": 2, "te1": 2, "te2": 3}


@cache
def _tower_weights(width: int, inner: int, layers: int, seed: int) -> dict[str, Tensor]:
    """CLIPTextModel weights and a text projection, drawn."""
    known = torch.zeros(VOCABULARY, 1)
    known[[BOS, EOS, PAD, *tokenize(KNOWN_WORDS)]] = 1
    name = "text_model."
    shapes = {f"self_attn.{x}_proj": (width, width) for x in ("q", "k", "v", "out")}
    shapes |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    weights = {
        f"{name}embeddings.token_embedding.weight": draw(VOCABULARY, width, seed=seed)
        * 0.5
        * known,
        f"{name}embeddings.position_embedding.weight": draw(CHUNK, width, seed=seed + 1) * 0.1,
        "text_projection.weight": draw(width, width, seed=seed + 2) / width**0.5,
    }
    norms = ["final_layer_norm"]
    for layer in range(layers):
        place = f"encoder.layers.{layer}."
        norms += [f"{place}layer_norm1", f"{place}layer_norm2"]
        for number, (module, shape) in enumerate(shapes.items()):
            own = seed + 100 * layer + 10 * number + 3
            weights[f"{name}{place}{module}.weight"] = draw(*shape, seed=own) / shape[1] ** 0.5
            weights[f"{name}{place}{module}.bias"] = draw(shape[0], seed=own + 1) * 0.02
    for number, norm in enumerate(norms):
        scale, shift = draw(2, width, seed=seed + 5000 + number) * torch.tensor([[0.1], [0.02]])
        weights |= {f"{name}{norm}.weight": 1 + scale, f"{name}{norm}.bias": shift}
    return weights


def family_weights(family: Family) -> dict[str, Tensor]:
    """As a host lends them: fresh copies."""
    found = {}
    for number, tower in enumerate(family.towers):
        for name, value in _tower_weights(*SIZES[tower.part], 10_000 * (number + 1)).items():
            if tower.pooled or name != "text_projection.weight":
                found[tower.prefix + name] = value.clone()
    return found


class TinyFamily(TinyModel):
    """Its UNet looks at the text as TinyModel's does, and adds what it makes of a pooled vector."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family = family
        self.conditioning_layers = tuple(CONDITIONING[tower.part] for tower in family.towers)
        self._weights = family_weights(family)
        width = sum(SIZES[tower.part][0] for tower in family.towers)
        self._key = draw(width, 16, seed=12) / width**0.5
        self._value = draw(width, 4, seed=13) / width**0.5
        self._pooled = draw(128, 4, seed=15) / 128**0.5
        self.width = width

    def _run_unet(self, latents: Tensor, timesteps: Tensor, text: Conditioning) -> Tensor:
        output = super()._run_unet(latents, timesteps, text)
        if text.pooled is None:
            return output
        return output + (text.pooled @ self._pooled)[:, :, None, None]


class TinySd1(TinyFamily):
    """One tower with its own padding, read at its last layer."""

    def __init__(self) -> None:
        super().__init__(SD1)


class TinySdxl(TinyFamily):
    """Two towers, read one layer early and without the final norm, and a pooled vector."""

    def __init__(self) -> None:
        super().__init__(SDXL)


def family_encoder(family: Family) -> TextEncoder:
    layers = [CONDITIONING[tower.part] for tower in family.towers]
    return TextEncoder.of(family.towers, family_weights(family), layers, torch.device("cpu"))
