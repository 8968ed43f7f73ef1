"""The parts of a diffusers pipeline: made empty, put together, and tried once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import UnlearnError, WrongModel
from ..models.families import SDXL, Family, Seen, recognise
from ..models.lent_model import LentModel
from ..text.conditioning import Conditioning
from ..text.tokenizer import PAD

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_VOCABULARY_FOLDER = Path(__file__).parents[1] / "text" / "clip_vocabulary"
_EDGE = 8


def vae_dtype(family: Family, dtype: torch.dtype) -> torch.dtype:
    """What a VAE is held in where a UNet is `dtype`: float16 is too small for SDXL's."""
    return torch.float32 if family is SDXL and dtype == torch.float16 else dtype


def empty_parts(
    unet_config: dict[str, Any], vae_config: dict[str, Any], *text_configs: dict[str, Any]
) -> tuple[nn.Module, ...]:
    """UNet, VAE and text encoders without memory (on the meta device), for fill_module.

    Of two text encoders the second one has a projection. Raises WrongModel for a config that the
    libraries can't make it from.
    """
    diffusers, transformers = _libraries()
    classes = (transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection)
    files = ("text_encoder/config.json", "text_encoder_2/config.json")
    with torch.device("meta"):
        with _config_of("unet/config.json"):
            unet: nn.Module = diffusers.UNet2DConditionModel.from_config(unet_config)
        with _config_of("vae/config.json"):
            vae: nn.Module = diffusers.AutoencoderKL.from_config(vae_config)
        text_encoders: list[nn.Module] = []
        for kind, file, config in zip(classes, files, text_configs, strict=False):
            with _config_of(file):
                text_encoders.append(kind(transformers.CLIPTextConfig(**config)))
    return unet, vae, *text_encoders


def assemble_pipeline(
    family: Family, scheduler_config: dict[str, Any], *parts: nn.Module
) -> DiffusionPipeline:
    """UNet, VAE and text encoders as one pipeline, with DDIM and this pack's CLIP tokenizers."""
    diffusers, _ = _libraries()
    with _config_of("scheduler/scheduler_config.json"):
        scheduler = diffusers.DDIMScheduler.from_config(scheduler_config)
    unet, vae, *text_encoders = parts
    held: dict[str, Any] = {"unet": unet, "vae": vae, "scheduler": scheduler}
    for end, text_encoder, tower in zip(("", "_2"), text_encoders, family.towers, strict=False):
        held |= {f"text_encoder{end}": text_encoder, f"tokenizer{end}": _tokenizer(tower.pad)}
    if len(text_encoders) > 1:
        kind, others = diffusers.StableDiffusionXLPipeline, {"add_watermarker": False}
    else:
        kind, others = diffusers.StableDiffusionPipeline, {"requires_safety_checker": False}
        held |= {"safety_checker": None, "feature_extractor": None}
    configured: Any = unet
    stated = configured.config.sample_size
    configured.register_to_config(sample_size=64)  # older pipelines compare it with a number
    with _config_of("configs"):
        pipeline: DiffusionPipeline = kind(**held, **others)
    configured.register_to_config(sample_size=stated)
    return pipeline


def parts_of(pipeline: Any) -> tuple[Any, Any, list[Any]]:
    """A lent pipeline's UNet, VAE and text encoders.

    Raises WrongModel where one is missing, or a text encoder carries a LoRA.
    """
    where = "the lent pipeline"
    unet, vae = getattr(pipeline, "unet", None), getattr(pipeline, "vae", None)
    if unet is None or vae is None:
        recognise(Seen(architecture=f"a {type(pipeline).__name__}"), where)
    found = [getattr(pipeline, f"text_encoder{end}", None) for end in ("", "_2", "_3")]
    if found[0] is None:
        recognise(Seen(pooled=True), where)
    held = [text_encoder for text_encoder in found if text_encoder is not None]
    for text_encoder in held:
        _refuse_adapters(text_encoder)
    return unet, vae, held


@torch.no_grad()
def try_once(model: LentModel, text: Conditioning, folder: Path) -> None:
    """Raise WrongModel if UNet or VAE can't compute what one of its family does.

    The libraries take many an odd number in a config and stumble over it in the first picture. At
    this size a step costs little more than reading the weights once.
    """
    latents = torch.linspace(-1, 1, 4 * _EDGE**2).view(1, 4, _EDGE, _EDGE).to(model.device)
    pixels = torch.linspace(-1, 1, 3 * (8 * _EDGE) ** 2).view(1, 3, 8 * _EDGE, 8 * _EDGE)
    step = torch.tensor([500], device=model.device)
    steps: list[tuple[str, Tensor, Callable[[], Tensor]]] = [
        ("unet", latents, lambda: model.predict(latents, step, text)),
        ("vae", pixels, lambda: model.decode_latents(latents)),
        ("vae", latents, lambda: model.encode_image(pixels.to(model.device))),
    ]
    for part, expected, compute in steps:
        try:
            found = compute()
        except (UnlearnError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:  # whatever torch raises for what an odd config has made
            reason = " ".join(str(error).split())[:300]
            raise WrongModel(
                f"{folder}: what {part}/config.json describes can't compute "
                f"({type(error).__name__}: {reason}). Restore the file from where the model comes "
                "from."
            ) from error
        if found.shape != expected.shape:
            raise WrongModel(
                f"{folder}: what {part}/config.json describes gives {tuple(found.shape)}, not "
                f"{tuple(expected.shape)}. Restore the file from where the model comes from."
            )
        if not bool(found.isfinite().all()):
            raise WrongModel(
                f"{folder}: its {part} gives numbers that are not finite: {part}/config.json or "
                "the weights are broken, or half precision is too small for them."
            )


def _tokenizer(pad: int) -> Any:
    _, transformers = _libraries()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(
        str(_VOCABULARY_FOLDER), local_files_only=True
    )
    if pad != PAD:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextmanager
def _config_of(file: str) -> Iterator[None]:
    """Turn what goes wrong inside the libraries into a WrongModel."""
    try:
        yield
    # They check little, so an odd value goes wrong anywhere inside: as any of Python's own errors,
    # as packaging's InvalidVersion, or as huggingface_hub's StrictDataclassError, which old ones
    # lack.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise WrongModel(
            f"The model's {file} can't be used: {type(error).__name__}: {reason}. Restore it from "
            "where the model comes from."
        ) from error


def _libraries() -> tuple[Any, Any]:
    """diffusers and transformers, imported late; as Any, for their classes hide from mypy."""
    import diffusers
    import transformers

    return diffusers, transformers


def _refuse_adapters(module: nn.Module) -> None:
    if any("lora_" in name or ".base_layer." in name for name in module.state_dict()):
        raise WrongModel(
            "The pipeline's text encoder carries a LoRA: unload it (unload_lora_weights) or fuse "
            "and unload it first."
        )
