"""Compares with open_clip 2.20.0's own blocks: `webui_open_clip.py FOLDER`; prints JSON.

FOLDER holds `open_clip/` of the wheel. Only its text blocks are imported; torchvision, which the
wheel wants for pictures, is a stub.
"""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from unlearn_webui.host.open_clip_names import hugging_face_weights

from unlearn_core.lora.keys import ATTENTION, text_module
from unlearn_core.lora.weights import LoraPair, LoraWeights, apply_lora, complete
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import token_ids

WIDTH, HEADS, LAYERS = 128, 2, 4
PROMPTS = ("a photo of a dog", "", "sketch of an apple, on a green background, " * 4)


def text_transformer() -> Any:
    """open_clip's TextTransformer with random weights, biases included."""
    package = ModuleType("open_clip")
    package.__path__ = [f"{sys.argv[1]}/open_clip"]
    sys.modules["open_clip"] = package
    stubs = ("torchvision", "torchvision.ops", "torchvision.ops.misc")
    for name in stubs:
        sys.modules[name] = ModuleType(name)
    sys.modules["torchvision.ops.misc"].FrozenBatchNorm2d = object  # type: ignore[attr-defined]
    from open_clip.transformer import TextTransformer

    for name in stubs:  # transformers would take them for the real one
        del sys.modules[name]
    torch.manual_seed(0)
    tower = TextTransformer(width=WIDTH, heads=HEADS, layers=LAYERS, output_dim=WIDTH)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if name.endswith("bias") or "ln_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return tower.train(False)


@torch.no_grad()
def encode(tower: Any, ids: Tensor) -> Tensor:
    """As Stable Diffusion 2 calls it: without the last block, then ln_final."""
    x = tower.token_embedding(ids) + tower.positional_embedding
    x = x.permute(1, 0, 2)
    for block in tower.transformer.resblocks[:-1]:
        x = block(x, attn_mask=tower.attn_mask)
    output: Tensor = tower.ln_final(x.permute(1, 0, 2))
    return output


@torch.no_grad()
def patch(tower: Any, lora: LoraWeights) -> None:
    """As AUTOMATIC1111 does it: attention only where all four parts are there, else not at all."""
    for index, block in enumerate(tower.transformer.resblocks):
        parts = {key.module: pair for key, pair in lora.pairs.items() if key.layer == index}
        if all(module in parts for module in ATTENTION):
            rows = [parts[module].delta() for module in ATTENTION[:3]]
            block.attn.in_proj_weight += torch.vstack(rows)
            block.attn.out_proj.weight += parts["out_proj"].delta()
        for module, layer in (("fc1", block.mlp.c_fc), ("fc2", block.mlp.c_proj)):
            if module in parts:
                layer.weight += parts[module].delta()


def random_lora(*modules: str) -> LoraWeights:
    """Of the last used layer."""
    shapes = {"fc1": (4 * WIDTH, WIDTH), "fc2": (WIDTH, 4 * WIDTH)}
    pairs = {}
    for module in modules:
        out, into = shapes.get(module, (WIDTH, WIDTH))
        key = text_module(LAYERS - 2, module)  # type: ignore[arg-type]
        pairs[key] = LoraPair(torch.randn(4, into) * 0.2, torch.randn(out, 4) * 0.2, 2.0)
    return LoraWeights(pairs)


def greatest(one: Tensor, other: Tensor) -> float:
    """Greatest absolute difference."""
    return float((one - other).abs().max())


def main() -> dict[str, float]:
    """Measure everything."""
    ids = torch.cat([token_ids(prompt)[:1] for prompt in PROMPTS])
    tower = text_transformer()
    weights = hugging_face_weights(tower.state_dict())
    device = torch.device("cpu")
    before = encode(tower, ids)
    with torch.no_grad():
        found = {"copy": greatest(TextEncoder(weights, LAYERS - 2, device).encode(ids), before)}
    part = random_lora("q_proj", "v_proj")
    patch(tower, part)
    found["incomplete"] = greatest(encode(tower, ids), before)
    whole = complete(LoraWeights({**part.pairs, **random_lora("fc1", "fc2").pairs}))
    patch(tower, whole)
    after = encode(tower, ids)
    found["moves"] = greatest(after, before)
    with torch.no_grad():
        changed = TextEncoder(apply_lora(weights, whole), LAYERS - 2, device).encode(ids)
    found["complete"] = greatest(changed, after)
    return found


print("MEASURED", json.dumps(main()))
