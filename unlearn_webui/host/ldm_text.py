"""The text encoders of AUTOMATIC1111's models: transformers' CLIPTextModel, and open_clip's."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unlearn_core.models.families import Seen, recognise
from unlearn_core.text.clip_model import layer_count

from .settings import skips_in_first_of_two
from .text_weights import from_open_clip, from_transformers, open_clip_layers


class TransformersText:
    """A CLIPTextModel: that of Stable Diffusion 1, and SDXL's first."""

    def __init__(self, embedder: Any) -> None:
        """`embedder` is latent diffusion's FrozenCLIPEmbedder."""
        self._embedder, self._model = embedder, embedder.transformer
        self.width = int(self._model.config.hidden_size)
        self.activations = (str(self._model.config.hidden_act),)

    def weights(self) -> dict[str, Tensor]:
        """Under CLIPTextModel's names."""
        return from_transformers(self._model.state_dict())

    def layer(self, skip: int) -> int:
        """The layer that conditions the picture at this Clip skip."""
        layers = layer_count(self._model.state_dict())
        is_first_of_two = getattr(self._embedder, "layer", "last") == "hidden"
        if not is_first_of_two or skips_in_first_of_two():
            return layers - skip
        stated = int(self._embedder.layer_idx)  # 0 is what enters the first layer
        return stated - 1 if stated >= 0 else layers + stated


class OpenClipText:
    """open_clip's: that of Stable Diffusion 2, and SDXL's second; Clip skip moves neither."""

    activations: tuple[str, ...] = ()
    """Not told: its blocks are made for its weights."""

    def __init__(self, embedder: Any) -> None:
        """`embedder` is FrozenOpenCLIPEmbedder, or for SDXL FrozenOpenCLIPEmbedder2."""
        self._embedder, self._model = embedder, embedder.model
        self.width = int(self._model.positional_embedding.shape[1])

    def weights(self) -> dict[str, Tensor]:
        """Under CLIPTextModel's names."""
        pooled = bool(getattr(self._embedder, "return_pooled", False))
        return from_open_clip(self._model.state_dict(), pooled)

    def layer(self, skip: int) -> int:
        """The layer that conditions the picture."""
        return open_clip_layers(self._model.state_dict()) - 1 - int(self._embedder.layer_idx)


def text_encoders(model: Any) -> list[TransformersText | OpenClipText]:
    """Those of the host's model in the order of their states; raises WrongModel for other kinds."""
    if getattr(model, "is_sd3", False):
        recognise(Seen(architecture="Stable Diffusion 3"))
    key = model.model.conditioning_key
    if key != "crossattn":
        recognise(Seen(architecture=f"an inpainting, depth or unCLIP model ({key!r})"))
    conditioner = getattr(model, "conditioner", None)
    wrapping = [model.cond_stage_model] if conditioner is None else conditioner.embedders
    # Embedders of sizes and scores take no words, so the host wraps nothing around them.
    return [_text_encoder(outer.wrapped) for outer in wrapping if hasattr(outer, "wrapped")]


def _text_encoder(embedder: Any) -> TransformersText | OpenClipText:
    if hasattr(getattr(getattr(embedder, "transformer", None), "config", None), "hidden_act"):
        return TransformersText(embedder)
    if getattr(getattr(embedder, "model", None), "positional_embedding", None) is not None:
        return OpenClipText(embedder)
    kind = f"a model with the text encoder {type(embedder).__name__}"
    recognise(Seen(architecture=kind))
    raise AssertionError(kind)  # recognise has refused it
