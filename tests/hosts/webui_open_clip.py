"""Our text encoders beside AUTOMATIC1111's own: `webui_open_clip.py FOLDER`; prints JSON.

FOLDER holds `open_clip/` of the wheel 2.20.0, of which only the text blocks are imported;
torchvision, which the wheel wants for pictures, is a stub. The CLIPTextModel is transformers' own.
Both have a few random layers of the published widths.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.append(str(Path(__file__).with_name("webui_thin")))
from modules import shared

from unlearn_core.lora.file import save_lora
from unlearn_core.lora.keys import ATTENTION, MODULES, text_module
from unlearn_core.lora.weights import LoraPair, LoraWeights, apply_lora, round_to_half
from unlearn_core.models.families import SD1, SD2, SDXL, Family
from unlearn_core.text.conditioning import Conditioning
from unlearn_core.text.text_encoder import TextEncoder
from unlearn_core.text.tokenizer import EOS, token_ids
from unlearn_webui.host.ldm_text import OpenClipText, TransformersText

LAYERS = 4
LORA_RANK = 4
PROMPTS = ("a photo of a dog", "", "sketch of an apple, on a green background, " * 12)
IDS = torch.cat([token_ids(prompt) for prompt in PROMPTS])
Encode = Callable[[], Conditioning]


def open_clip_model(width: int) -> Any:
    """open_clip's TextTransformer with random weights, biases included."""
    if "open_clip" not in sys.modules:
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
    return randomised(
        TextTransformer(width=width, heads=width // 64, layers=LAYERS, output_dim=width)
    )


def transformers_model() -> Any:
    """A CLIPTextModel of CLIP-L's width."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768,
        num_hidden_layers=LAYERS, eos_token_id=EOS,
    )  # fmt: skip
    torch.manual_seed(1)
    return randomised(CLIPTextModel(config))


@torch.no_grad()
def randomised(model: nn.Module) -> nn.Module:
    """With biases and norms that are not what they begin as."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "ln_" in name or "norm" in name:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.train(False)


def padded_with_eos(ids: Tensor) -> Tensor:
    """As the host pads for a CLIPTextModel: EOS behind EOS."""
    return ids.masked_fill((ids == EOS).cumsum(-1) > 0, EOS)


def of_transformers(model: Any, hidden: int, normed: bool) -> Tensor:
    """hidden_states[hidden], with the final norm for Stable Diffusion 1."""
    states = model(padded_with_eos(IDS), output_hidden_states=True).hidden_states[hidden]
    found: Tensor = model.text_model.final_layer_norm(states) if normed else states
    return found


def of_open_clip(model: Any, last: int) -> Tensor:
    """What leaves all blocks but the last ones, (B, 77, width)."""
    x = (model.token_embedding(IDS) + model.positional_embedding).permute(1, 0, 2)
    for block in model.transformer.resblocks[: LAYERS - last]:
        x = block(x, attn_mask=model.attn_mask)
    return x.permute(1, 0, 2)


def sd1(clip_skip: int) -> tuple[list[Any], Encode]:
    """Stable Diffusion 1: the host norms the state at Clip skip."""
    shared.opts.data["CLIP_stop_at_last_layers"] = clip_skip
    model = transformers_model()
    text = TransformersText(SimpleNamespace(transformer=model, layer="last"))
    return [text], lambda: Conditioning(of_transformers(model, -clip_skip, True))


def sd2() -> tuple[list[Any], Encode]:
    """Stable Diffusion 2: one block less, then ln_final."""
    model = open_clip_model(SD2.towers[0].width)
    text = OpenClipText(SimpleNamespace(model=model, layer_idx=1))
    return [text], lambda: Conditioning(model.ln_final(of_open_clip(model, 1)))


def sdxl() -> tuple[list[Any], Encode]:
    """SDXL: raw states of both side by side, and the second one's pooled vector."""
    first, second = transformers_model(), open_clip_model(SDXL.towers[1].width)
    hidden = LAYERS - 1

    def encode() -> Conditioning:
        tokens = [of_transformers(first, hidden, False), of_open_clip(second, 1)]
        last = second.ln_final(of_open_clip(second, 0))
        at_end = last[torch.arange(len(IDS)), IDS.argmax(-1)]
        return Conditioning(torch.cat(tokens, -1), at_end @ second.text_projection)

    embedder = SimpleNamespace(transformer=first, layer="hidden", layer_idx=hidden)
    texts = [
        TransformersText(embedder),
        OpenClipText(SimpleNamespace(model=second, layer_idx=1, return_pooled=True)),
    ]
    return texts, encode


def random_lora(family: Family, texts: list[Any]) -> LoraWeights:
    """Of every module that a file may name."""
    generator = torch.Generator().manual_seed(1)

    def matrix(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.05

    pairs = {}
    for tower, text in zip(family.towers, texts, strict=True):
        width = text.width
        for layer in range(LAYERS if tower.pooled else text.layer(1) + 1):
            for module in MODULES:
                out = 4 * width if module == "fc1" else width
                into = 4 * width if module == "fc2" else width
                key = text_module(layer, module, tower.part)
                pairs[key] = LoraPair(matrix(LORA_RANK, into), matrix(out, LORA_RANK), 2.0)
    return round_to_half(LoraWeights(pairs, family=family))


def host_modules(family: Family, texts: list[Any]) -> dict[str, Any]:
    """As the host names the modules that a LoRA may change."""
    found = {}
    for number, text in enumerate(texts):
        kind = "transformer" if isinstance(text, TransformersText) else "model"
        before = f"{number}_{kind}_" if family is SDXL else f"{kind}_"
        for name, module in text._model.named_modules():
            found[before + name.replace(".", "_")] = module
    return found


def host_name(key: str, family: Family) -> str:
    """As the host turns the name of a file's module into its own."""
    found = re.fullmatch(r"lora_te[12]?_text_model_encoder_layers_(\d+)_(\w+)", key)
    assert found
    layer, rest = found.groups()
    second = key.startswith("lora_te2_")
    start = f"{int(second)}_" if family is SDXL else ""
    if not second and family is not SD2:
        return f"{start}transformer_text_model_encoder_layers_{layer}_{rest}"
    rest = rest.replace("mlp_fc1", "mlp_c_fc").replace("mlp_fc2", "mlp_c_proj")
    return f"{start}model_transformer_resblocks_{layer}_{rest.replace('self_attn', 'attn')}"


def deltas_of(lora: LoraWeights, family: Family) -> dict[str, Tensor]:
    """What a LoRA's file changes, under the host's names."""
    with tempfile.TemporaryDirectory() as folder:
        save_lora(lora, Path(folder) / "lora.safetensors")
        tensors = load_file(Path(folder) / "lora.safetensors")
    deltas = {}
    for key in {name.partition(".")[0] for name in tensors}:
        up, down = (tensors[f"{key}.lora_{end}.weight"].float() for end in ("up", "down"))
        scale = float(tensors[f"{key}.alpha"]) / len(down)
        deltas[host_name(key, family)] = up @ down * scale
    return deltas


@torch.no_grad()
def patch(modules: dict[str, Any], deltas: dict[str, Tensor]) -> int:
    """Add them as AUTOMATIC1111 does; how many found no place.

    open_clip's attention is one module, changed only where q, k, v and out are all there.
    """
    unmatched = 0
    for name, delta in deltas.items():
        stem = re.sub(r"(q|k|v|out)_proj$", "", name)
        attention = modules.get(stem.removesuffix("_"))
        if isinstance(attention, nn.MultiheadAttention):
            four = [deltas[stem + end] for end in ATTENTION if stem + end in deltas]
            if len(four) == 4 and name.endswith("q_proj"):
                attention.in_proj_weight += torch.vstack(four[:3])
                attention.out_proj.weight += four[3]
        elif isinstance(modules.get(name), nn.Linear):
            modules[name].weight += delta
        else:
            unmatched += 1
    return unmatched


def greatest(one: Conditioning, other: Conditioning) -> float:
    """Greatest difference, over the root mean square of what the host has."""
    return max(
        float((own - theirs).abs().max() / theirs.square().mean().sqrt())
        for own, theirs in zip(one.tensors, other.tensors, strict=True)
    )


@torch.no_grad()
def measure(family: Family, texts: list[Any], encode: Encode, skip: int = 1) -> dict[str, float]:
    """Our copy beside the host's, before and after a LoRA of all modules."""
    weights = {
        tower.prefix + name: value
        for tower, text in zip(family.towers, texts, strict=True)
        for name, value in text.weights().items()
    }
    layers = [text.layer(skip) for text in texts]
    device = torch.device("cpu")

    def ours(lent: dict[str, Tensor]) -> Conditioning:
        return TextEncoder.of(family.towers, lent, layers, device).condition(IDS)

    before = encode()
    found = {"copy": greatest(ours(weights), before)}
    lora = random_lora(family, texts)
    found["unmatched"] = patch(host_modules(family, texts), deltas_of(lora, family))
    after = encode()
    found["moves"] = greatest(before, after)
    found["lora"] = greatest(ours(apply_lora(weights, lora)), after)
    return found


@torch.no_grad()
def without_out() -> float:
    """What a LoRA of all but the attention's outputs and the MLP changes in Stable Diffusion 2."""
    texts, encode = sd2()
    before = encode()
    deltas = deltas_of(random_lora(SD2, texts), SD2)
    some = {name: delta for name, delta in deltas.items() if re.search("[qkv]_proj$", name)}
    assert patch(host_modules(SD2, texts), some) == 0
    return greatest(encode(), before)


def main() -> Iterator[tuple[str, dict[str, float]]]:
    """Measure everything."""
    for skip in (1, 2):
        yield f"sd1, Clip skip {skip}", measure(SD1, *sd1(skip), skip)
    yield "sd2", measure(SD2, *sd2())
    yield "sdxl", measure(SDXL, *sdxl())
    yield "without out", {"moves": without_out()}


print("MEASURED", json.dumps(dict(main())))
