"""Pictures of one prompt: encoded once, the n-th of them always from the n-th noise."""

from __future__ import annotations

import torch
from torch import Tensor

from ..concept import Concept
from ..lora.weights import LoraWeights
from ..models.lent_model import LentModel
from ..models.sampling import draw_pictures, paired_noise
from ..text.conditioning import Conditioning
from ..text.text_encoder import TextEncoder
from ..training.preview import draw_concept
from ..words.prompts import whole_prompts
from .scaled_encoder import ScaledEncoder

DRAW_STEPS = 10


def encode_prompt(encoder: TextEncoder, token_ids: Tensor) -> Conditioning:
    """One prompt (1, 77) beside the empty one."""
    return encoder.condition(torch.cat([token_ids, whole_prompts([""]).token_ids]))


def draw_encoded(model: LentModel, text: Conditioning, count: int, seed: int) -> Tensor:
    """`count` pictures of what `encode_prompt` gave, (count, 3, h, w) float32 in [-1, 1]."""
    size = model.native_size
    noise = torch.cat([paired_noise(seed, i, size, size) for i in range(count)])
    return draw_pictures(model, text[:1].expand(count), text[1:], noise, DRAW_STEPS)


def draw_after(model: LentModel, lora: LoraWeights, concept: Concept, seed: int) -> Tensor:
    """What the concept's prompt draws with the LoRA, (3, h, w) float32 in [-1, 1]."""
    scaled = ScaledEncoder.with_lora(model, lora)
    with scaled.unet_at(1.0):
        return draw_concept(model, scaled.set_strength(1.0), concept, seed) * 2 - 1
