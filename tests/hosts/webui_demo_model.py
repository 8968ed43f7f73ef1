"""Slim models of every family in the shapes in which the two kinds of WebUI hold theirs.

tests/ is no package; conftest.py loads this file under the plain name `webui_demo_model`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from webui_slim_pipeline import slim_pipeline
from webui_slim_towers import open_clip_tower, transformers_tower, tree

from unlearn_core.loaders.diffusers_model import DiffusersModel
from unlearn_core.models.families import SD1, SD2, SDXL, Family
from unlearn_core.text.clip_model import layer_count
from unlearn_core.text.text_encoder import weights_of

NAME = "demo"
_FORGE_NAMES = {"sd1": ["clip_l"], "sd2": ["clip_h"], "sdxl": ["clip_l", "clip_g"]}
SIZES = 6 * 256
"""Numbers that SDXL's UNet takes of a picture's size."""


class DemoUNet(nn.Module):
    """diffusers' UNet behind latent diffusion's call, with the parts that are looked at."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.input_blocks = nn.ModuleList([nn.ModuleList([unet.conv_in])])
        self.inner = unet
        self.num_classes = None
        if unet.config.addition_embed_type is not None:
            self.num_classes = "sequential"
            unet.add_time_proj = nn.Identity()  # the hosts' UNets take sines

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None = None, **_: Any
    ) -> Tensor:
        assert (y is None) == (self.num_classes is None)
        added = {} if y is None else {"text_embeds": y[:, :-SIZES], "time_ids": y[:, -SIZES:]}
        output: Tensor = self.inner(
            x, timesteps, encoder_hidden_states=context, added_cond_kwargs=added, return_dict=False
        )[0]
        return output


def _embedders(family: Family, weights: list[dict[str, Tensor]]) -> list[Any]:
    """What latent diffusion puts around the text encoders."""
    if family is SD2:
        tower = open_clip_tower(weights[0], layer_count(weights[0]) + 1)
        return [SimpleNamespace(model=tower, layer_idx=1)]
    first = transformers_tower(weights[0], "quick_gelu")
    if family is SD1:
        return [SimpleNamespace(transformer=first, layer="last", layer_idx=None)]
    layers = [layer_count(each) for each in weights]
    second = open_clip_tower(weights[1], layers[1])
    return [
        SimpleNamespace(transformer=first, layer="hidden", layer_idx=layers[0] - 1),
        SimpleNamespace(model=second, layer_idx=1, return_pooled=True),
    ]


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

    def __init__(self, family: Family = SD2) -> None:
        pipeline = slim_pipeline(family)
        lent = DiffusersModel(pipeline)
        self._vae = self.first_stage_model = pipeline.vae
        self.scale_factor = float(pipeline.vae.config.scaling_factor)
        weights = lent.text_encoder_weights()
        embedders = _embedders(family, [weights_of(tower, weights) for tower in family.towers])
        self.towers = [getattr(e, "transformer", None) or e.model for e in embedders]
        self.model = nn.Module()
        self.model.diffusion_model = DemoUNet(pipeline.unet)
        self.model.conditioning_key = "crossattn"  # type: ignore[assignment]
        self.model.requires_grad_(True)
        outer: list[Any] = [SimpleNamespace(wrapped=embedder) for embedder in embedders]
        self.is_sdxl = family is SDXL
        if self.is_sdxl:
            self.cond_stage_model = self.conditioner = SimpleNamespace(
                embedders=[*outer, *[SimpleNamespace(outdim=256)] * 3]
            )
        else:
            self.cond_stage_model = outer[0]
        self.image_size = lent.native_size // 8  # SDXL's has none, and is drawn large
        self.parameterization = "v" if lent.prediction == "v" else "eps"
        self.alphas_cumprod = lent.alphas_cumprod
        self.lowvram = False
        self.sd_checkpoint_info = SimpleNamespace(name_for_extra=NAME)
        self.patched: Tensor | None = None

    def parts(self) -> list[nn.Module]:
        """All that holds weights."""
        return [self.model, self._vae, *self.towers]

    def apply_model(self, x: Tensor, t: Tensor, cond: dict[str, Any]) -> Tensor:
        unet = self.model.diffusion_model
        output: Tensor
        if self.is_sdxl:
            output = unet(x, t, cond["crossattn"], cond["vector"])
        else:
            output = unet(x, t, torch.cat(cond["c_crossattn"], 1))
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
        """SDXL's gives a draw that is scaled already."""
        with torch.no_grad():
            posterior = self._vae.encode(pixels).latent_dist
        return posterior.sample() * self.scale_factor if self.is_sdxl else posterior

    def get_first_stage_encoding(self, latents: Tensor) -> Tensor:
        return latents * self.scale_factor

    def _patched_weight(self) -> nn.Parameter:
        """The last one of the text encoders that a LoRA could have changed."""
        return [p for name, p in self.towers[-1].named_parameters() if ".mlp." in name][-1]


def refiner(shape: str) -> Any:
    """What the host holds when SDXL's refiner is loaded, as far as it is looked at."""
    info = SimpleNamespace(name_for_extra="sd_xl_refiner_1.0")
    unet = nn.Module()
    unet.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(4, 4, 1)])])
    unet.num_classes = "sequential"  # type: ignore[assignment]
    table = torch.zeros(77, 1280)
    if shape == "forge":
        transformer = tree({"text_model.embeddings.position_embedding.weight": table})
        stage = SimpleNamespace(clip_g=SimpleNamespace(transformer=transformer))
        objects = ForgeObjects(
            Patcher(SimpleNamespace(diffusion_model=unet)),
            SimpleNamespace(cond_stage_model=stage),
            None,
        )
        return SimpleNamespace(forge_objects_original=objects, sd_checkpoint_info=info)
    model = SimpleNamespace(diffusion_model=unet, conditioning_key="crossattn")
    wrapped = SimpleNamespace(model=SimpleNamespace(positional_embedding=table))
    conditioner = SimpleNamespace(embedders=[SimpleNamespace(wrapped=wrapped)])
    return SimpleNamespace(model=model, conditioner=conditioner, sd_checkpoint_info=info)


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

    def __init__(self, family: Family = SD2) -> None:
        with torch.inference_mode():
            pipeline = slim_pipeline(family)
            lent = DiffusersModel(pipeline)
            weights = lent.text_encoder_weights()
            texts = {
                name: SimpleNamespace(
                    transformer=transformers_tower(weights_of(tower, weights), tower.activation)
                )
                for name, tower in zip(_FORGE_NAMES[family.key], family.towers, strict=True)
            }
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
        stage = SimpleNamespace(**texts)
        clip = SimpleNamespace(cond_stage_model=stage, patcher=Patcher(stage))
        self._vae = pipeline.vae
        vae = SimpleNamespace(patcher=Patcher(self._vae))
        self.forge_objects_original = ForgeObjects(Patcher(core), clip, vae)
        self.forge_objects = self.forge_objects_original.shallow_copy()
        self.current_lora_hash = "[]"
        self.sd_checkpoint_info = SimpleNamespace(name_for_extra=NAME)
        self.reloads = 0
        for end in ("_l", "_g") if family is SDXL else ("",):
            database = SimpleNamespace(load_textual_inversion_embeddings=self._count)
            least = 2 if family is SDXL else 1
            engine = SimpleNamespace(minimal_clip_skip=least, embeddings=database)
            setattr(self, f"text_processing_engine{end}", engine)

    def parts(self) -> list[nn.Module]:
        """All that holds weights."""
        objects = self.forge_objects_original
        texts = vars(objects.clip.cond_stage_model).values()
        towers = [text.transformer for text in texts]
        return [objects.unet.model.diffusion_model, self._vae, *towers]

    def encode_first_stage(self, pixels: Tensor) -> Tensor:
        posterior = self._vae.encode(pixels).latent_dist
        chosen = self.forge_objects.vae.patcher.model_options.get("model_vae_regulation")
        latents: Tensor = chosen(posterior) if chosen else posterior.sample()
        return latents * float(self._vae.config.scaling_factor)

    def _count(self) -> None:
        self.reloads += 1
