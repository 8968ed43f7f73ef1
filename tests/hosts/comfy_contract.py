"""Runs inside ComfyUI's Python: `comfy_contract.py COMFYUI PACK FAMILY`; prints JSON.

What ComfyModel measures on the demo model of a family, beside diffusers and beside ComfyUI itself.
"""

from __future__ import annotations

import json
from typing import Any

from comfy_inside import (
    ARGUMENTS,
    Monitor,
    checksum,
    greatest,
    host_encode,
    ours,
    own_encode,
)  # fmt: skip
import torch  # noqa: E402, I001

comfy_clip, comfy_demo = ours("nodes.comfy_clip"), ours("nodes.comfy_demo")
comfy_model, comfy_run = ours("nodes.comfy_model"), ours("nodes.comfy_run")
engine, errors = ours("unlearn_core.forgetting.unlearn"), ours("unlearn_core.errors")
Concept = ours("unlearn_core.concept").Concept
preset = ours("unlearn_core.settings").preset
apply_lora = ours("unlearn_core.lora.weights").apply_lora
DiffusersModel = ours("unlearn_core.loaders.diffusers_model").DiffusersModel
load_demo_pipeline = ours("unlearn_core.loaders.demo_model").load_demo_pipeline
build_encoder = ours("unlearn_core.models.lent_model").build_encoder

(FAMILY,) = ARGUMENTS
PROMPTS = ("a photo of a dog", "", "a sketch of an apple on a green background, " * 10)
SMALL = {"steps": 6, "forget_prompts": 16, "keep_prompts": 16, "inversion_steps": 2,
         "stand_in_pictures": 2, "batch_size": 4}  # fmt: skip


def main() -> dict[str, Any]:
    """Measure everything."""
    with torch.inference_mode():
        model, clip, vae = comfy_demo.load_demo()
    theirs = DiffusersModel(load_demo_pipeline(), torch.float32)
    before = checksum(model.model, clip.cond_stage_model, vae.first_stage_model)
    found: dict[str, Any] = {}
    with torch.inference_mode(), comfy_run.training_allowed(clip, model):
        lent = comfy_model.ComfyModel(clip, model, vae)
        encoder = engine.build_encoder(lent)
        ids = [token_ids(text) for text in PROMPTS]
        texts = [encoder.encode(part).flatten(0, 1)[None] for part in ids]
        found["text"] = max(
            greatest(text, host_encode(clip, prompt))
            for text, prompt in zip(texts, PROMPTS, strict=True)
        )
        latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        steps, text = torch.tensor([10, 700]), Conditioning(texts[0]).expand(2)
        found["unet"] = greatest(
            lent.predict(latents, steps, text), theirs.predict(latents, steps, text)
        )
        gradients = []
        for each in (lent, theirs):
            given = text.map(lambda tensor: tensor.clone().requires_grad_(True))
            each.predict(latents, steps, given).square().sum().backward()
            gradients.append(given.tokens.grad)
        found["gradient"] = greatest(*gradients) / float(gradients[1].abs().max())
        pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
        found["encode"] = greatest(lent.encode_image(pixels), theirs.encode_image(pixels))
        found["decode"] = greatest(lent.decode_latents(latents), theirs.decode_latents(latents))

    concept = Concept("dog", ("puppy",), images=tuple(pixels.expand(2, -1, -1, -1)))
    unchanged = {}
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
            ended = "success"
        except errors.UnlearnError:
            ended = "error"
        except comfy_run.management.InterruptProcessingException:
            ended = "cancel"
        after = checksum(model.model, clip.cond_stage_model, vae.first_stage_model)
        unchanged[name] = ended == name and after == before
        if name == "success":
            lora = result.lora
    found["unchanged"] = unchanged

    with torch.inference_mode():
        changed = comfy_clip.with_lora(clip, lora, 1.0)
    expected = TextEncoder(
        apply_lora(theirs.text_encoder_weights(), lora), 5, torch.device("cpu")
    ).encode(ids[0])
    found["lora"] = greatest(host_encode(changed, PROMPTS[0]), expected)
    found["lora_moves"] = greatest(host_encode(clip, PROMPTS[0]), expected)
    own, new = comfy_clip.text_weights(clip), comfy_clip.text_weights(changed)
    found["layers"] = sorted({int(n.split(".")[3]) for n in own if not own[n].equal(new[n])})
    alone = comfy_clip.text_weights(changed, alone=True)
    found["alone"] = all(own[n].equal(alone[n]) for n in own)

    skipping = clip.clone()
    skipping.clip_layer(-4)
    found["clip_skip"] = [comfy_clip.active_layer(clip), comfy_clip.active_layer(skipping)]
    with torch.inference_mode(), comfy_run.training_allowed(skipping, model):
        skipped = engine.build_encoder(comfy_model.ComfyModel(skipping, model, vae))
        found["clip_skip_text"] = greatest(
            skipped.encode(ids[0]), host_encode(skipping, PROMPTS[0])
        )
    found["stored"] = stored_in_less(clip, vae, latents, steps, text)
    found["epsilon"] = as_epsilon(model, clip, theirs, latents, steps, text)
    found["orders"] = beside_another_lora(model, clip, vae, lora)
    found["sd1"] = refusal_of_sd1()
    return found


def stored_in_less(clip: Any, vae: Any, latents: Any, steps: Any, text: Any) -> dict[str, bool]:
    """For UNet weights stored in fewer bits: the gradient is right and the weights stay."""
    found = {}
    folder = ours("unlearn_core.loaders.demo_model").demo_folder() / "model" / "unet"
    for stored in (torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        with torch.inference_mode():
            model = comfy_demo.load_unet(folder, stored)
        before = checksum(model.model)
        with torch.inference_mode(), comfy_run.training_allowed(clip, model):
            lent = comfy_model.ComfyModel(clip, model, vae)
            given = text.map(lambda tensor: tensor.clone().requires_grad_(True))
            lent.predict(latents, steps, given).square().sum().backward()
        gradient = given.tokens.grad
        right = bool(gradient.isfinite().all()) and bool(gradient.any())
        found[str(stored)] = right and checksum(model.model) == before
    return found


def as_epsilon(model: Any, clip: Any, theirs: Any, latents: Any, steps: Any, text: Any) -> Any:
    """With ModelSamplingDiscrete set to eps: what is predicted, and how far from the raw output."""
    import comfy_extras.nodes_model_advanced as advanced

    with torch.inference_mode():
        (changed,) = advanced.ModelSamplingDiscrete().patch(model, "eps", False)
    with torch.inference_mode(), comfy_run.training_allowed(clip, changed):
        lent = comfy_model.ComfyModel(clip, changed)
        raw = theirs.predict(latents, steps, text)
        return [lent.prediction, greatest(lent.predict(latents, steps, text), raw)]


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
        lent = comfy_model.ComfyModel(below, model, vae)
        own = engine.build_encoder(lent).encode(token_ids(PROMPTS[0]))
        bare = comfy_model.ComfyModel(below, model, vae, alone=True).text_encoder_weights()
    weights = comfy_clip.text_weights(clip)
    return {
        "same": greatest(host_encode(first, PROMPTS[0]), host_encode(second, PROMPTS[0])),
        "on_top": greatest(own, host_encode(below, PROMPTS[0])),
        "moves": greatest(own, host_encode(clip, PROMPTS[0])),
        "alone": all(weights[name].equal(bare[name]) for name in weights),
        "told": [comfy_clip.has_loras(clip), comfy_clip.has_loras(below)],
    }


def refusal_of_sd1() -> str:
    """What is said to the CLIP of SD 1.x, here two layers of it."""
    target = comfy.supported_models_base.ClipTarget(
        comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel
    )
    sizes = {"num_hidden_layers": 2}
    clip = comfy.sd.CLIP(target, model_options={"clip_l_model_config": sizes})
    try:
        comfy_clip.active_layer(clip)
    except errors.WrongModel as error:
        return str(error)
    return ""


print("MEASURED", json.dumps(main()))
