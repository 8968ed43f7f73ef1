"""Runs inside ComfyUI's Python: `comfy_checkpoint.py COMFYUI PACK FAMILY FOLDER`; prints JSON.

A checkpoint with text encoders of full size, a small UNet and random float16 weights, which ComfyUI
itself writes and loads.
"""

from __future__ import annotations

import gc
import json
import logging
from pathlib import Path
from typing import Any

import torch
from comfy_inside import (
    ARGUMENTS,
    PROMPTS,
    checksum,
    comfy,
    greatest,
    host_encode,
    ours,
    own_encode,
    size,
    text_error,
)

shapes = comfy.supported_models
comfy_model, comfy_run = ours("nodes.comfy_model"), ours("nodes.comfy_run")
comfy_clip, keys = ours("nodes.comfy_clip"), ours("unlearn_core.lora.keys")
LoraPair = ours("unlearn_core.lora.weights").LoraPair
LoraWeights = ours("unlearn_core.lora.weights").LoraWeights
save_lora = ours("unlearn_core.lora.file").save_lora
build_encoder = ours("unlearn_core.models.lent_model").build_encoder

FAMILY, FOLDER = ARGUMENTS
_UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "legacy": False,
    "use_spatial_transformer": True, "use_checkpoint": False, "use_temporal_attention": False,
    "use_temporal_resblock": False,
}  # fmt: skip
_ONE_LEVEL = {
    "channel_mult": [1], "num_res_blocks": [1], "transformer_depth": [1],
    "transformer_depth_output": [1, 1], "transformer_depth_middle": 1, "adm_in_channels": None,
}  # fmt: skip
_THREE_LEVELS = {
    "channel_mult": [1, 1, 1], "num_res_blocks": [1, 1, 1], "transformer_depth": [0, 2, 5],
    "transformer_depth_output": [0, 0, 2, 2, 5, 5], "transformer_depth_middle": -2,
    "adm_in_channels": 2816, "num_classes": "sequential",
}  # fmt: skip
_CONFIGS = {
    "sd1": (shapes.SD15, {**_ONE_LEVEL, "context_dim": 768, "use_linear_in_transformer": False}),
    "sd2": (shapes.SD20, {**_ONE_LEVEL, "context_dim": 1024, "use_linear_in_transformer": True}),
    "sdxl": (
        shapes.KOALA_700M,
        {**_THREE_LEVELS, "context_dim": 2048, "use_linear_in_transformer": True},
    ),
}


def write_checkpoint(path: Path) -> None:
    """As ComfyUI's own node Save Checkpoint does."""
    kind, config = _CONFIGS[FAMILY]
    shape = kind({**_UNET, **config})
    shape.set_inference_dtype(torch.float16, None)
    model = comfy.model_patcher.ModelPatcher(
        shape.get_model({}, "", device="cpu"), torch.device("cpu"), torch.device("cpu")
    )
    clip = comfy.sd.CLIP(shape.clip_target(), model_options={"dtype": torch.float16})
    torch.manual_seed(0)
    for module in (model.model.diffusion_model, clip.cond_stage_model):
        for name, weight in module.named_parameters():
            fill(name, weight.data)
    comfy.sd.save_checkpoint(str(path), model, clip)


def fill(name: str, weight: Any) -> None:
    """With random numbers that keep states at about their size."""
    if weight.dim() > 1:
        weight.normal_(std=weight[0].numel() ** -0.5 if "embedding" not in name else 0.5)
    elif weight.dim() == 1:
        weight.fill_(float(name.endswith("weight"))).add_(torch.randn_like(weight), alpha=0.1)


def main() -> dict[str, Any]:
    """Measure everything."""
    path = Path(FOLDER) / f"{FAMILY}.safetensors"
    with torch.inference_mode():
        write_checkpoint(path)
        comfy.model_management.unload_all_models()
        gc.collect()
        model, clip, *_ = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False)
    before = checksum(model.model, clip.cond_stage_model)
    found: dict[str, Any] = {}
    with torch.inference_mode(), comfy_run.training_allowed(clip, model):
        lent = comfy_model.ComfyModel(clip, model)
        found["family"], found["layers"] = lent.family.key, lent.conditioning_layers
        found["size"] = lent.native_size
        encoder = build_encoder(lent)
        found["text"] = [text_error(encoder, clip, prompt) for prompt in PROMPTS]
        found["states"] = size(host_encode(clip, PROMPTS[0])[0])
        found["unet"] = unet_error(lent, encoder, model, clip)
    del encoder
    skipping = clip.clone()
    skipping.clip_layer(-3)
    with torch.inference_mode(), comfy_run.training_allowed(skipping, model):
        lent = comfy_model.ComfyModel(skipping, model)
        found["clip_skip"] = lent.conditioning_layers
        found["clip_skip_text"] = text_error(build_encoder(lent), skipping, PROMPTS[0])
    del lent
    gc.collect()
    found |= with_a_lora(model, clip)
    with torch.inference_mode():
        comfy.model_management.unload_all_models()  # which takes the LoRA out
    found["unchanged"] = checksum(model.model, clip.cond_stage_model) == before
    return found


def unet_error(lent: Any, encoder: Any, model: Any, clip: Any) -> float:
    """Between our prediction and that of ComfyUI's own way from a prompt to the UNet."""
    latents = torch.randn(1, 4, 16, 8, generator=torch.Generator().manual_seed(0))
    step = torch.tensor([500])
    own = lent.predict(latents, step, own_encode(encoder, PROMPTS[0]))
    with torch.inference_mode():
        host = model.model
        sigma = host.model_sampling.sigmas[step]
        noisy = latents * (1 + sigma**2).sqrt()
        tokens, pooled = host_encode(clip, PROMPTS[0])
        conds = comfy.sampler_helpers.convert_cond([[tokens, {"pooled_output": pooled}]])
        conds = comfy.samplers.encode_model_conds(
            host.extra_conds, conds, noisy, noisy.device, "positive"
        )
        model.pre_run()
        (clean,) = comfy.samplers.calc_cond_batch(host, [conds], noisy, sigma, model.model_options)
        model.cleanup()
    return greatest(own, (noisy - clean) / sigma)


def with_a_lora(model: Any, clip: Any) -> dict[str, Any]:
    """A LoRA of every layer that a file may name, in ComfyUI's own loader and sampler."""
    lora = random_lora(clip)
    path = Path(FOLDER) / f"lora-{FAMILY}.safetensors"
    save_lora(lora, path)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    with torch.inference_mode():
        _, changed = comfy.sd.load_lora_for_models(
            model, clip, comfy.utils.load_torch_file(str(path)), 1.0, 1.0
        )
        pictures = [drawn(model, each) for each in (clip, clip, changed)]
    logging.getLogger().removeHandler(handler)
    return {
        "loaded": [len(lora.pairs), len(changed.patcher.patches)],
        "parts": sorted({key.part for key in lora.pairs}),
        "not_loaded": [line for line in said if "not loaded" in line.lower()],
        "same_picture": greatest(*pictures[:2]),
        "moves": greatest(*pictures[1:]),
    }


def random_lora(clip: Any) -> Any:
    """Of rank 1."""
    weights, pairs = comfy_clip.text_weights(clip), {}
    family = comfy_clip.family_of(clip)
    for tower in family.towers:
        for layer in range(tower.last_layer + 1):
            for module in keys.MODULES:
                key = keys.text_module(layer, module, tower.part)
                out, into = weights[keys.weight_name(key)].shape
                down, up = torch.randn(1, into) / into**0.5, torch.randn(out, 1) / out**0.5
                pairs[key] = LoraPair(down, up, 1.0)
    return LoraWeights(pairs, family=family)


def drawn(model: Any, clip: Any) -> Any:
    """Latents of the concept's prompt."""
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    tokens, pooled = host_encode(clip, PROMPTS[0])
    conds = [[tokens, {"pooled_output": pooled}]]
    return comfy.sample.sample(
        model, noise, 2, 1.0, "euler", "normal", conds, conds, torch.zeros_like(noise), seed=1
    )


print("MEASURED", json.dumps(main()))
