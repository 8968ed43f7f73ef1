"""The demo model in the shapes in which the two kinds of WebUI hold theirs.

tests/ is no package; conftest.py loads this file under the plain name `webui_demo_model`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_core.loaders.demo_model import load_demo_pipeline
from unlearn_core.loaders.diffusers_model import DiffusersModel
from unlearn_core.loaders.ldm_keys import TEXT_ENCODER_PREFIX, text_key

NAME = "demo"


def tree(weights: dict[str, Tensor], trainable: bool = False) -> nn.Module:
    """A module whose state dict is `weights`."""
    root = nn.Module()
    for name, value in weights.items():
        *folders, last = name.split(".")
        part = root
        for folder in folders:
            if folder not in part._modules:
                part.add_module(folder, nn.Module())
            part = part._modules[folder]  # type: ignore[assignment]
        part.register_parameter(last, nn.Parameter(value.clone(), requires_grad=trainable))
    return root


class DemoUNet(nn.Module):
    """diffusers' UNet behind latent diffusion's call, with the parts that are looked at."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.input_blocks = nn.ModuleList([nn.ModuleList([unet.conv_in])])
        self.inner = unet
        self.num_classes = None

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_: Any) -> Tensor:
        output: Tensor = self.inner(x, timesteps, encoder_hidden_states=context, return_dict=False)
        return output[0]


def open_clip_state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIPTextModel weights as an open_clip tower holds them, with one more layer of zeros.

    The table of word vectors is wrapped, as the host does it.
    """
    layers = 1 + max(int(name.split(".")[3]) for name in weights if ".layers." in name)
    last = f".layers.{layers - 1}."
    extra = {
        name.replace(last, f".layers.{layers}."): torch.zeros_like(value)
        for name, value in weights.items()
        if last in name
    }
    thirds: dict[str, list[Tensor]] = {}
    state = {}
    for name, value in {**weights, **extra}.items():
        key, third = text_key(name.removeprefix("text_model."))
        key = key.removeprefix(TEXT_ENCODER_PREFIX)
        if third is None:
            state[key.replace("token_embedding.", "token_embedding.wrapped.")] = value
        else:
            thirds.setdefault(key, [value] * 3)[third] = value
    return state | {key: torch.cat(parts) for key, parts in thirds.items()}


class WithDemoVae:
    """What both kinds of host call to see latents."""

    _vae: Any

    def decode_first_stage(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self._vae.decode(
            latents / float(self._vae.config.scaling_factor), return_dict=False
        )[0]
        return pixels


class LdmDemo(WithDemoVae):
    """As AUTOMATIC1111's sd_model, every parameter with requires_grad, as the host leaves it."""

    def __init__(self) -> None:
        pipeline: Any = load_demo_pipeline()
        lent = DiffusersModel(pipeline)
        self.model = nn.Module()
        self.model.diffusion_model = DemoUNet(pipeline.unet)
        self.model.conditioning_key = "crossattn"  # type: ignore[assignment]
        self.model.requires_grad_(True)
        tower = tree(open_clip_state(lent.text_encoder_weights()))
        self.cond_stage_model = SimpleNamespace(wrapped=SimpleNamespace(model=tower, layer_idx=1))
        self.parameterization = "v" if lent.prediction == "v" else "eps"
        self.alphas_cumprod = lent.alphas_cumprod
        self.image_size = lent.native_size // 8
        self.lowvram = False
        self.sd_checkpoint_info = SimpleNamespace(name_for_extra=NAME)
        self.patched: Tensor | None = None
        self._vae = pipeline.vae

    def apply_model(self, x: Tensor, t: Tensor, cond: dict[str, list[Tensor]]) -> Tensor:
        output: Tensor = self.model.diffusion_model(x, t, torch.cat(cond["c_crossattn"], 1))
        return output

    def get_learned_conditioning(self, _: list[str]) -> None:
        """A part takes LoRAs out of its weights when it is used, and not before."""
        import networks

        if self.patched is not None and not networks.loaded_networks:
            self._patched_weight().data.copy_(self.patched)
            self.patched = None

    def patch(self) -> None:
        """What a picture with a LoRA leaves behind."""
        import networks

        networks.loaded_networks[:] = ["other"]
        self.patched = self._patched_weight().detach().clone()
        self._patched_weight().data.add_(1.0)

    def encode_first_stage(self, pixels: Tensor) -> Any:
        with torch.no_grad():
            return self._vae.encode(pixels).latent_dist

    def get_first_stage_encoding(self, latents: Tensor) -> Tensor:
        return latents * float(self._vae.config.scaling_factor)

    def _patched_weight(self) -> nn.Parameter:
        weight: nn.Parameter = self.cond_stage_model.wrapped.model.ln_final.weight
        return weight


def stable_diffusion_1(shape: str) -> Any:
    """What the host holds when a checkpoint of SD 1.x is loaded, as far as it is looked at."""
    info = SimpleNamespace(name_for_extra="v1-5-pruned-emaonly")
    if shape == "forge":
        clip = SimpleNamespace(cond_stage_model=SimpleNamespace(clip_l=None))
        unet = Patcher(SimpleNamespace(diffusion_model=None))
        objects = ForgeObjects(unet, clip, None)
        return SimpleNamespace(forge_objects_original=objects, sd_checkpoint_info=info)
    config = SimpleNamespace(hidden_size=768, num_hidden_layers=12)
    transformer = SimpleNamespace(config=config)
    cond_stage_model = SimpleNamespace(wrapped=SimpleNamespace(transformer=transformer))
    model = SimpleNamespace(diffusion_model=None)
    return SimpleNamespace(model=model, cond_stage_model=cond_stage_model, sd_checkpoint_info=info)


class Patcher:
    """As Forge's ModelPatcher, as far as it is used."""

    def __init__(self, model: Any) -> None:
        self.model, self.load_device = model, torch.device("cpu")
        self.model_options: dict[str, Any] = {}
        self.refreshed = 0

    def memory_required(self, _: list[int]) -> float:
        return 0.0

    def refresh_loras(self) -> None:
        self.refreshed += 1


class ForgeObjects:
    """UNet, CLIP and VAE of one model."""

    def __init__(self, unet: Any, clip: Any, vae: Any) -> None:
        self.unet, self.clip, self.vae = unet, clip, vae

    def shallow_copy(self) -> ForgeObjects:
        return ForgeObjects(self.unet, self.clip, self.vae)


class ForgeDemo(WithDemoVae):
    """As Forge's diffusion engine; its weights are inference tensors, as the host's are."""

    def __init__(self) -> None:
        with torch.inference_mode():
            pipeline: Any = load_demo_pipeline()
            lent = DiffusersModel(pipeline)
            text = tree(lent.text_encoder_weights())
            for module in (pipeline.unet, pipeline.vae):
                for part in module.modules():
                    for name, weight in part._parameters.items():
                        if weight is not None:
                            part._parameters[name] = nn.Parameter(weight.clone())
        core = SimpleNamespace(
            diffusion_model=DemoUNet(pipeline.unet),
            predictor=SimpleNamespace(
                sigmas=((1 - lent.alphas_cumprod) / lent.alphas_cumprod).sqrt(),
                prediction_type="v_prediction" if lent.prediction == "v" else "epsilon",
            ),
            computation_dtype=torch.float32,
            config=SimpleNamespace(unet_config={"image_size": lent.native_size // 8}),
        )
        stage = SimpleNamespace(clip_h=SimpleNamespace(transformer=text))
        clip = SimpleNamespace(cond_stage_model=stage, patcher=Patcher(stage))
        self._vae = pipeline.vae
        vae = SimpleNamespace(patcher=Patcher(self._vae))
        self.forge_objects_original = ForgeObjects(Patcher(core), clip, vae)
        self.forge_objects = self.forge_objects_original.shallow_copy()
        self.current_lora_hash = "[]"
        self.sd_checkpoint_info = SimpleNamespace(name_for_extra=NAME)
        self.reloads = 0
        database = SimpleNamespace(load_textual_inversion_embeddings=self._count)
        self.text_processing_engine = SimpleNamespace(minimal_clip_skip=1, embeddings=database)

    def encode_first_stage(self, pixels: Tensor) -> Tensor:
        posterior = self._vae.encode(pixels).latent_dist
        chosen = self.forge_objects.vae.patcher.model_options.get("model_vae_regulation")
        latents: Tensor = chosen(posterior) if chosen else posterior.sample()
        return latents * float(self._vae.config.scaling_factor)

    def _count(self) -> None:
        self.reloads += 1
