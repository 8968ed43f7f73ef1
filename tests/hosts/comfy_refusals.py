"""Runs inside ComfyUI's Python: `comfy_refusals.py COMFYUI PACK`; prints each refusal as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from comfy_inside import comfy, ours

comfy_clip, comfy_demo = ours("nodes.comfy_clip"), ours("nodes.comfy_demo")
comfy_model, errors = ours("nodes.comfy_model"), ours("unlearn_core.errors")
keys, weights = ours("unlearn_core.lora.keys"), ours("unlearn_core.lora.weights")
families = ours("unlearn_core.models.families")
comfy_run, lent_model = ours("nodes.comfy_run"), ours("unlearn_core.models.lent_model")
preview, Concept = ours("unlearn_core.training.preview"), ours("unlearn_core.concept").Concept
flux, sd3_clip = comfy.text_encoders.flux, comfy.text_encoders.sd3_clip
pixart_t5 = comfy.text_encoders.pixart_t5
Target = comfy.supported_models_base.ClipTarget
CLIP_SIZES = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 64,
              "num_attention_heads": 1}  # fmt: skip
T5_SIZES = {"num_layers": 1, "d_model": 64, "d_ff": 64, "d_kv": 64, "num_heads": 1,
            "vocab_size": 8}  # fmt: skip
SIZES = {f"{name}_model_config": CLIP_SIZES for name in ("clip_l", "clip_g")}
SIZES |= {f"{name}_model_config": T5_SIZES for name in ("t5xxl", "pile_t5xl")}


def other_clip(tokenizer: Any, clip: Any) -> Any:
    """A CLIP of another family, small and empty."""
    return comfy.sd.CLIP(Target(tokenizer, clip), model_options=SIZES)


def refused(call: Callable[..., object], *arguments: object) -> str:
    """What the user is told."""
    try:
        with torch.inference_mode():
            call(*arguments)
    except errors.UnlearnError as error:
        return str(error)
    return "taken"


def clips() -> dict[str, str]:
    """CLIP of each family that is not known."""
    sdxl = comfy.sdxl_clip
    kinds = {
        "refiner": (sdxl.SDXLTokenizer, sdxl.SDXLRefinerClipModel),
        "cascade": (sdxl.StableCascadeTokenizer, sdxl.StableCascadeClipModel),
        "sd3": (sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip(True, True, t5=False)),
        "flux": (flux.FluxTokenizer, flux.flux_clip()),
        "t5": (pixart_t5.PixArtTokenizer, pixart_t5.pixart_te()),
    }
    return {name: refused(comfy_clip.family_of, other_clip(*kind)) for name, kind in kinds.items()}


def models(demos: dict[str, Any]) -> dict[str, str]:
    """MODEL that goes with no known family, or with another CLIP."""
    found = {}
    for family, (model, clip, _) in demos.items():
        config = model.model.model_config.unet_config
        for name, change in (
            ("inpainting", {"in_channels": 9}),
            ("editing", {"in_channels": 8}),
            *([] if family == "sdxl" else [("unclip", {"adm_in_channels": 2048})]),
        ):
            model.model.model_config.unet_config = {**config, **change}
            found[f"{family} {name}"] = refused(comfy_model.ComfyModel, clip, model)
        model.model.model_config.unet_config = config
    for clip_of, model_of in (("sd1", "sdxl"), ("sdxl", "sd2")):
        clip, model = demos[clip_of][1], demos[model_of][0]
        found[f"{clip_of} beside {model_of}"] = refused(comfy_model.ComfyModel, clip, model)
    model, clip, _ = demos["sdxl"]
    flux_like = SimpleNamespace(get_model_object=model.get_model_object)
    flux_like.model = type("Flux", (), {"diffusion_model": torch.nn.Identity()})()
    found["flux"] = refused(comfy_model.ComfyModel, clip, flux_like)
    for name, node, *rest in (
        ("lcm", "ModelSamplingDiscrete", "lcm", False),
        ("edm", "ModelSamplingContinuousEDM", "edm", 120.0, 0.002),
        ("flow", "ModelSamplingSD3", 3.0),
    ):
        found[name] = refused(comfy_model.ComfyModel, clip, sampled(model, node, *rest))
    return found


def sampled(model: Any, node: str, *inputs: Any) -> Any:
    """MODEL behind a node of ComfyUI."""
    import comfy_extras.nodes_model_advanced as advanced

    return getattr(advanced, node)().patch(model, *inputs)[0]


def loras(demos: dict[str, Any]) -> dict[str, str]:
    """A LoRA of one family on the CLIP of another; and without a note of its family."""
    found = {}
    for made_for in demos:
        family = next(each for each in families.FAMILIES if each.key == made_for)
        pairs = {
            keys.text_module(0, "fc1", tower.part): weights.LoraPair(
                torch.zeros(1, 192), torch.zeros(768, 1), 1.0
            )
            for tower in family.towers
        }
        for used_on, (_, clip, _) in demos.items():
            for note, said in (("", family), (" unsaid", None)):
                lora = weights.LoraWeights(pairs, family=said)
                found[f"{made_for} on {used_on}{note}"] = refused(
                    comfy_clip.with_lora, clip, lora, 1.0
                )
    return found


def layers(demos: dict[str, Any]) -> dict[str, str]:
    """CLIP Set Last Layer at -1, and beyond the first layer."""
    found = {}
    for family, (_, clip, _) in demos.items():
        for last in (-1, -20):
            moved = clip.clone()
            moved.clip_layer(last)
            found[f"{family} {last}"] = refused(comfy_clip.conditioning_layers, moved)
    return found


def broken(demos: dict[str, Any]) -> dict[str, str]:
    """A UNet and a VAE that give numbers that are not finite, as ComfyUI's stay silent about."""
    model, clip, vae = demos["sd2"]
    parts = {"UNet": model.model.diffusion_model.out[2], "VAE": vae.first_stage_model.decoder}
    found = {}
    for name, part in parts.items():
        hook = part.register_forward_hook(lambda *given: given[-1] * torch.nan)
        with comfy_run.training_allowed(clip, model):
            lent = comfy_model.ComfyModel(clip, model, vae)
            encoder = lent_model.build_encoder(lent)
            found[name] = refused(preview.draw_concept, lent, encoder, Concept("dog"), 0)
        hook.remove()
        with comfy_run.training_allowed(clip, model):
            lent = comfy_model.ComfyModel(clip, model, vae)
            found[f"{name} mended"] = refused(
                preview.draw_concept, lent, encoder, Concept("dog"), 0
            )
    return found


def lazy(demos: dict[str, Any]) -> dict[str, str]:
    """MODEL of a host with dynamic VRAM: of a custom loader, of a core loader, and in little RAM.

    On a CPU no host makes one, so this is what 0.33.0's gives: its error, and a second patcher.
    """
    model, clip, _ = demos["sd2"]

    class Lazy(comfy.model_patcher.ModelPatcher):
        non_dynamic_delegate_model = None
        cached_patcher_init: Any = None

        def get_non_dynamic_delegate(self) -> Any:
            if self.cached_patcher_init is None:
                raise RuntimeError("cached_patcher_init is not initialized.")
            return model

    def told(free: int, loader: Any) -> str:
        patcher = Lazy(model.model, model.load_device, model.offload_device)
        patcher.cached_patcher_init = loader
        management.get_free_memory = lambda *_: free
        return refused(comfy_model.ComfyModel, clip, patcher)

    management, before = comfy.model_management, comfy.model_management.get_free_memory
    try:
        return {
            "custom loader": told(2**40, None),
            "core loader": told(2**40, ()),
            "little RAM": told(0, ()),
        }
    finally:
        management.get_free_memory = before


def lazy_demo() -> str:
    """The demo models where ComfyUI builds layers without weights, and how it is set afterwards."""
    memory = getattr(comfy, "memory_management", None)
    if memory is None:
        return "this host has no such layers"
    memory.aimdo_enabled = True
    told = [refused(comfy_demo.load_demo, family) for family in comfy_demo.FAMILIES]
    return f"{told} {memory.aimdo_enabled}"


def missing() -> str:
    """A demo model whose folder is not there."""
    comfy_demo.demo_folders = lambda family: (Path("nowhere") / family,)
    return refused(comfy_demo.load_demo, "sdxl")


def main() -> dict[str, Any]:
    """All of them."""
    with torch.inference_mode():
        demos = {family: comfy_demo.load_demo(family) for family in comfy_demo.FAMILIES}
    return {
        "clips": clips(),
        "models": models(demos),
        "loras": loras(demos),
        "layers": layers(demos),
        "broken": broken(demos),
        "lazy": lazy(demos),
        "lazy demo": lazy_demo(),
        "missing": missing(),
    }


print("MEASURED", json.dumps(main()))
