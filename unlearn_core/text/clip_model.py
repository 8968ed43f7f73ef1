"""A CLIP text tower: its kind, and the CLIPTextModel of it, made empty and filled with weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import WrongModel
from ..files.tensor_file import is_finite
from .frozen_layers import freeze_parts
from .tokenizer import ADDED_TOKENS, BOS, CHUNK, EOS, PAD, VOCABULARY

if TYPE_CHECKING:
    from transformers import CLIPTextModel

HEAD_WIDTH = 64
"""Width of one attention head in the text towers of Stable Diffusion 1, 2 and XL."""


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
    pad: int
    """The token behind the end of a prompt."""
    activation: str
    pooled: bool = False
    """Whether the UNet gets its pooled vector too, which comes of the last layer."""

    @property
    def last_layer(self) -> int:
        """Index of the last layer that a LoRA file may name: later ones move nothing."""
        return self.layers - 1 if self.pooled else self.conditioning_layer

    @property
    def prefix(self) -> str:
        """Before the names of its weights as a host lends them: nothing where it is the only one.

        >>> TextTower("te2", 1280, 32, 30, False, 0, "gelu", True).prefix
        'te2.'
        """
        return prefix_of(self.part)


def prefix_of(part: str) -> str:
    """See `TextTower.prefix`."""
    return "" if part == "te" else f"{part}."


def layer_count(weights: Mapping[str, Tensor]) -> int:
    """How many layers the weights of a tower are of."""
    return len({key.split(".")[3] for key in weights if key.startswith("text_model.encoder.")})


def sizes_of(weights: Mapping[str, Tensor], last_layer: int) -> dict[str, int]:
    """What a CLIPTextConfig says of weights, cut after a layer.

    Raises WrongModel if they are of no CLIP.
    """
    table = weights.get("text_model.embeddings.token_embedding.weight")
    positions = weights.get("text_model.embeddings.position_embedding.weight")
    expand = weights.get("text_model.encoder.layers.0.mlp.fc1.weight")
    if table is None or positions is None or expand is None:
        raise WrongModel("The text encoder is not a CLIP text model: its weights are missing.")
    vocabulary, width = table.shape
    count = layer_count(weights)
    if vocabulary != VOCABULARY or positions.shape[0] != CHUNK or width % HEAD_WIDTH:
        raise WrongModel(
            f"The text encoder has {vocabulary} tokens, {positions.shape[0]} positions and width "
            f"{width}; one that can be used has {VOCABULARY}, {CHUNK} and a multiple of "
            f"{HEAD_WIDTH}." + (f" {ADDED_TOKENS}." if vocabulary > VOCABULARY else "")
        )
    if not 0 <= last_layer < count:
        raise WrongModel(
            f"Layer {last_layer} should condition the picture, but there are {count} layers."
        )
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": expand.shape[0],
        "num_hidden_layers": last_layer + 1,
        "num_attention_heads": width // HEAD_WIDTH,
    }


def empty_model(sizes: dict[str, int], activation: str) -> CLIPTextModel:
    """On the meta device, without memory, its projections frozen."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        **sizes,
        projection_dim=sizes["hidden_size"],
        hidden_act=activation,
        max_position_embeddings=CHUNK,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    with torch.device("meta"):
        model = CLIPTextModel(config)
        for layer in body_of(model).encoder.layers:
            freeze_parts(layer)
    return model


def body_of(model: CLIPTextModel) -> Any:
    """The module that holds embeddings, encoder and final_layer_norm in transformers 4 and 5."""
    return getattr(model, "text_model", model)


def load_weights(model: CLIPTextModel, weights: Mapping[str, Tensor], device: torch.device) -> None:
    """Put copies of the weights in; raises WrongModel for what is missing or not finite."""
    body = body_of(model)
    prefix = "text_model."
    state = {}
    for name, parameter in body.named_parameters():
        given = weights.get(prefix + name)
        if given is None or given.shape != parameter.shape:
            found = "missing" if given is None else f"of shape {tuple(given.shape)}"
            raise WrongModel(
                f"The text encoder's {name} is {found}; expected {tuple(parameter.shape)}."
            )
        if not is_finite(given):
            raise WrongModel(
                f"The text encoder's {name} holds numbers that are not finite: the model's file is "
                "broken, or a LoRA is on it at too great a strength. Load the model again."
            )
        is_half = given.dtype in (torch.float16, torch.bfloat16)
        keeps = is_half and given.dim() == 2 and "position" not in name
        dtype = given.dtype if keeps else torch.float32
        state[name] = given.detach().to(device=device, dtype=dtype, copy=True)
    positions = torch.arange(CHUNK, device=device)[None]
    state |= {name: positions for name, _ in body.named_buffers() if name.endswith("position_ids")}
    persistent = set(body.state_dict())
    body.load_state_dict({k: v for k, v in state.items() if k in persistent}, assign=True)
    body.embeddings.position_ids = positions
