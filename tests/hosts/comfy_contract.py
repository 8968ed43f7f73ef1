"""Runs inside ComfyUI's Python: `comfy_contract.py COMFYUI PACK FAMILY`; prints JSON.

What ComfyModel measures on the demo model of a family, beside diffusers and beside ComfyUI itself.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
from comfy_inside import (
    ARGUMENTS,
    PROMPTS,
    Monitor,
    checksum,
    greatest,
    host_encode,
    ours,
    own_encode,
    text_error,
)

comfy_clip, comfy_demo = ours("nodes.comfy_clip"), ours("nodes.comfy_demo")
comfy_model, comfy_run = ours("nodes.comfy_model"), ours("nodes.comfy_run")
engine, errors = ours("unlearn_core.forgetting.unlearn"), ours("unlearn_core.errors")
Concept = ours("unlearn_core.concept").Concept
preset = ours("unlearn_core.settings").preset
lora_weights, lora_file = ours("unlearn_core.lora.weights"), ours("unlearn_core.lora.file")
apply_lora = lora_weights.apply_lora
deep, hooks = ours("unlearn_core.unet_lora.training"), ours("unlearn_core.unet_lora.hooks")
DiffusersModel = ours("unlearn_core.loaders.diffusers_model").DiffusersModel
load_demo_pipeline = ours("unlearn_core.loaders.demo_model").load_demo_pipeline
build_encoder = ours("unlearn_core.models.lent_model").build_encoder

(FAMILY,) = ARGUMENTS
SMALL = {"steps": 6, "forget_prompts": 16, "keep_prompts": 16, "inversion_steps": 2,
         "stand_in_pictures": 2, "batch_size": 4}  # fmt: skip


def main() -> dict[str, Any]:
    """Measure everything."""
    with torch.inference_mode():
        model, clip, vae = comfy_demo.load_demo(FAMILY)
    theirs = DiffusersModel(load_demo_pipeline(FAMILY), torch.float32)
    before = checksum(model.model, clip.cond_stage_model, vae.first_stage_model)
    found: dict[str, Any] = {}
    with torch.inference_mode(), comfy_run.training_allowed(clip, model):
        lent = comfy_model.ComfyModel(clip, model, vae)
        found["family"] = lent.family.key
        encoder = build_encoder(lent)
        found["text"] = max(text_error(encoder, clip, prompt) for prompt in PROMPTS)
        latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        steps, text = torch.tensor([10, 700]), own_encode(encoder, PROMPTS[0]).expand(2)
        found["unet"] = greatest(
            lent.predict(latents, steps, text), theirs.predict(latents, steps, text)
        )
        gradients = []
        for each in (lent, theirs):
            given = text.map(lambda tensor: tensor.clone().requires_grad_(True))
            each.predict(latents, steps, given).square().sum().backward()
            gradients.append([tensor.grad for tensor in given.tensors])
        found["gradient"] = max(
            greatest(one, other) / float(other.abs().max())
            for one, other in zip(*gradients, strict=True)
        )
        pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
        found["encode"] = greatest(lent.encode_image(pixels), theirs.encode_image(pixels))
        found["decode"] = greatest(lent.decode_latents(latents), theirs.decode_latents(latents))

    found["unchanged"], lora = runs(model, clip, vae, pixels, before)
    with torch.inference_mode():
        changed = comfy_clip.with_lora(clip, lora, 1.0)
    expected = build_encoder(theirs, apply_lora(theirs.text_encoder_weights(), lora))
    found["lora"] = text_error(expected, changed, PROMPTS[0])
    found["lora_moves"] = text_error(expected, clip, PROMPTS[0])
    own, new = comfy_clip.text_weights(clip), comfy_clip.text_weights(changed)
    moved = {name.partition("text_model.encoder.layers.")[::2] for name in own
             if not own[name].equal(new[name])}  # fmt: skip
    found["layers"] = sorted({f"{part}{name.partition('.')[0]}" for part, name in moved})
    alone = comfy_clip.text_weights(changed, alone=True)
    found["alone"] = all(own[name].equal(alone[name]) for name in own)

    skipping = clip.clone()
    skipping.clip_layer(-4)
    found["clip_skip"] = [comfy_clip.conditioning_layers(each) for each in (clip, skipping)]
    found["told_skip"] = [comfy_clip.clip_skip(each) for each in (clip, skipping)]
    with torch.inference_mode(), comfy_run.training_allowed(skipping, model):
        skipped = build_encoder(comfy_model.ComfyModel(skipping, model, vae))
        found["clip_skip_text"] = text_error(skipped, skipping, PROMPTS[0])
    found["stored"] = stored_in_less(clip, vae, latents, steps, text)
    found["sampling"] = {
        name: resampled(model, clip, theirs, latents, text, *node)
        for name, node in (("epsilon", ("eps", False)), ("ztsnr", ("v_prediction", True)))
    }
    found["orders"] = beside_another_lora(model, clip, vae, lora)
    if FAMILY == "sd2":
        found["deep"] = with_a_unet_part(model, clip, theirs, lora)
    return found


def runs(model: Any, clip: Any, vae: Any, pixels: Any, before: str) -> tuple[dict[str, bool], Any]:
    """Whether each way to end leaves all weights as they were; and the LoRA of the good one."""
    concept = Concept("dog", ("puppy",), images=tuple(pixels.expand(2, -1, -1, -1)))
    unchanged, lora = {}, None
    for name, monitor, settings in (
        ("success", Monitor(), preset("balanced", **SMALL)),
        ("cancel", Monitor(9), preset("balanced", **SMALL)),
        ("error", Monitor(), preset("balanced", **SMALL, learning_rate=1.0, keep_weight=100.0)),
    ):
        try:
            with torch.inference_mode(), comfy_run.training_allowed(clip, model):
                lent = comfy_model.ComfyModel(clip, model, vae)
                if name == "error":
                    lent.predict = lambda latents, *_: latents * float("nan")
                result = engine.unlearn(lent, concept, settings, monitor)
            ended, lora = "success", result.lora
        except errors.UnlearnError:
            ended = "error"
        except comfy_run.management.InterruptProcessingException:
            ended = "cancel"
        after = checksum(model.model, clip.cond_stage_model, vae.first_stage_model)
        unchanged[name] = ended == name and after == before
    return unchanged, lora


def stored_in_less(clip: Any, vae: Any, latents: Any, steps: Any, text: Any) -> dict[str, bool]:
    """For UNet weights stored in fewer bits: the gradient is right and the weights stay."""
    found = {}
    for stored in (torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        with torch.inference_mode():
            model = comfy_demo.load_unet(FAMILY, stored)
        before = checksum(model.model)
        with torch.inference_mode(), comfy_run.training_allowed(clip, model):
            lent = comfy_model.ComfyModel(clip, model, vae)
            given = text.map(lambda tensor: tensor.clone().requires_grad_(True))
            lent.predict(latents, steps, given).square().sum().backward()
        gradients = [tensor.grad for tensor in given.tensors]
        right = all(bool(each.isfinite().all()) and bool(each.any()) for each in gradients)
        found[str(stored)] = right and checksum(model.model) == before
    return found


def resampled(
    model: Any, clip: Any, theirs: Any, latents: Any, text: Any, kind: str, zsnr: bool
) -> list[Any]:
    """Behind ModelSamplingDiscrete: what is predicted, its distance from the raw output at the
    first and the last timestep, and the last alpha."""
    import comfy_extras.nodes_model_advanced as advanced

    steps = torch.tensor([0, 999])
    with torch.inference_mode():
        (changed,) = advanced.ModelSamplingDiscrete().patch(model, kind, zsnr)
    with torch.inference_mode(), comfy_run.training_allowed(clip, changed):
        lent = comfy_model.ComfyModel(clip, changed)
        raw = theirs.predict(latents, steps, text)
        error = greatest(lent.predict(latents, steps, text), raw)
        return [lent.prediction, error, float(lent.alphas_cumprod[-1])]


def beside_another_lora(model: Any, clip: Any, vae: Any, lora: Any) -> dict[str, Any]:
    """Another LoRA at 0.8 below and above ours, and training on top of it."""
    generator = torch.Generator().manual_seed(5)
    pairs = {
        key: type(pair)(
            torch.randn(pair.down.shape, generator=generator) * 0.1,
            torch.randn(pair.up.shape, generator=generator) * 0.1,
            pair.alpha,
        )
        for key, pair in lora.pairs.items()
    }
    other = type(lora)(pairs)
    with torch.inference_mode():
        below = comfy_clip.with_lora(clip, other, 0.8)
        first = comfy_clip.with_lora(below, lora, 1.0)
        second = comfy_clip.with_lora(comfy_clip.with_lora(clip, lora, 1.0), other, 0.8)
    with torch.inference_mode(), comfy_run.training_allowed(below, model):
        own = build_encoder(comfy_model.ComfyModel(below, model, vae))
        on_top, moves = (text_error(own, each, PROMPTS[0]) for each in (below, clip))
        bare = comfy_model.ComfyModel(below, model, vae, alone=True).text_encoder_weights()
    weights = comfy_clip.text_weights(clip)
    ends = [host_encode(each, PROMPTS[0])[0] for each in (first, second)]
    return {
        "same": greatest(*ends) / float(ends[0].abs().max()),
        "on_top": on_top,
        "moves": moves,
        "alone": all(weights[name].equal(bare[name]) for name in weights),
        "told": [comfy_clip.has_loras(clip), comfy_clip.has_loras(below)],
    }


def with_a_unet_part(model: Any, clip: Any, theirs: Any, lora: Any) -> dict[str, Any]:
    """A file as the preset deep writes it, in ComfyUI's own LoRA loader, beside our hooks."""
    import comfy.sd
    import comfy.utils

    generator, said = torch.Generator().manual_seed(6), Said()
    pairs = {
        name: type(pair)(
            pair.down.detach(), torch.randn(pair.up.shape, generator=generator) * 0.1, pair.alpha
        )
        for name, pair in deep.new_pairs(theirs.unet, 2, generator).items()
    }
    whole = lora_weights.round_to_half(dataclasses.replace(lora, unet=pairs))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        file = Path(folder) / "deep.safetensors"
        lora_file.save_lora(whole, file)
        read = comfy.utils.load_torch_file(str(file), safe_load=True)
        logging.getLogger().addHandler(said)
        changed, text = comfy.sd.load_lora_for_models(model, clip, read, 1.0, 1.0)
        logging.getLogger().removeHandler(said)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    steps, states = torch.tensor([10, 700]), own_encode(build_encoder(theirs), PROMPTS[0]).expand(2)
    with torch.inference_mode(), comfy_run.training_allowed(text, changed):
        there = comfy_model.ComfyModel(text, changed).predict(latents, steps, states)
    with torch.no_grad():
        plain = theirs.predict(latents, steps, states)
        with hooks.hooked(theirs.unet, whole.unet):
            here = theirs.predict(latents, steps, states)
    return {
        "not loaded": [line for line in said.lines if "not loaded" in line],
        "error": greatest(there, here),
        "moves": greatest(here, plain),
    }


class Said(logging.Handler):
    """What is logged meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        self.lines.append(record.getMessage())


print("MEASURED", json.dumps(main()))
