"""The model, its judge and its pictures: a demo's, or a full-size one with CLIP as the judge."""

from __future__ import annotations

import importlib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.protocol.cells import DRAW_STEPS, World
from bench.protocol.clip_judge import ClipJudge
from bench.protocol.erased import Erased
from unlearn_core.errors import BadSettings
from unlearn_core.loaders.demo_model import DEMOS, load_demo_world
from unlearn_core.loaders.diffusers_model import DiffusersModel, load_model
from unlearn_core.models.lent_model import build_encoder

VAE_FACTOR = 8
"""Pixels along one latent, in SD2 and in the demo model."""


@dataclass(frozen=True)
class ModelChoice:
    """Which model is measured, and how pictures of it are drawn and judged."""

    name: str = "demo"
    """One of DEMOS, a diffusers folder or a .safetensors file."""
    clip: Path | None = None
    """Folder of a CLIPModel, the judge of any model but the demo models."""
    size: int | None = None
    """Edge of the pictures; None: the model's own."""
    steps: int = DRAW_STEPS

    def open(self) -> tuple[Erased, World, dict[str, Any]]:
        """See `open_model`."""
        return open_model(self.name, self.clip, self.size)


def open_model(
    name: str, clip: Path | None = None, size: int | None = None
) -> tuple[Erased, World, dict[str, Any]]:
    """The unchanged model, the world with its judge, and what the report says about them.

    Raises BadFile, WrongModel, or BadSettings for a full-size model without CLIP.
    """
    if name not in DEMOS and clip is None:
        raise BadSettings("The demo's judge can't read other models' pictures: give --clip FOLDER.")
    model, line = load_model(name)
    if name not in DEMOS or size is not None:
        # The rivals train UNet weights, and these must be float32; autocast still computes in half.
        pipeline: Any = model.pipeline.to(torch.float32)
        if size is not None:  # said in the UNet's config, so that a rival's copy knows it too
            pipeline.unet.register_to_config(sample_size=size // VAE_FACTOR)
        model = DiffusersModel(pipeline)
    judge = None
    if clip is not None:
        known = load_demo_world()
        names = [*known["objects"], *known["controls"]]
        judge = ClipJudge(clip, names, list(known["styles"]), model.device)
    importlib.import_module("peft")  # else the first method would be charged for it
    base = Erased(model, build_encoder(model), "base")
    about = {
        "model": name,
        "judge": str(clip or "demo/judge"),
        "prediction": line,
        "device": str(model.device),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    return base, World(judge, model.device), about
