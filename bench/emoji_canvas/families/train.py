"""The demo's SD1 and SDXL models: trained on the demo's latents, exported, measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.emoji_canvas.families.models import SD1, SDXL
from bench.emoji_canvas.render import load_renders, splits
from bench.emoji_canvas.training.autoencoder import SCALING, encode
from bench.emoji_canvas.training.generator import NOISES, PICTURES, SEED, Captions, write_captions
from bench.emoji_canvas.training.objective import spread_steps
from bench.emoji_canvas.training.stage import Checkpoint, Stage, warm_cosine
from unlearn_core.loaders.demo_model import load_demo_pipeline

DESCRIBED = 0.4
"""Share of lone objects that a caption describes instead of naming."""
SHARES = {"sd1": 0.4, "sdxl": 0.6}
"""Parts of the training time."""
_SHORT, _LONG_FROM = 32, 0.8
"""Positions computed until that share of the budget; longer captions are cut."""
_NAMES_WEIGHT = 0.03
_LOG_EVERY = 50


def train_family(model: nn.Module, latents: Tensor, captions: Captions, stage: Stage) -> None:
    """Train in place until the stage's time is spent, resuming its checkpoint; average weights.

    latents (N, 4, 8, 8), scaled by the VAE's factor, in the order of `captions`.
    """
    groups = model.groups()
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    rates = [group["lr"] for group in groups]
    trained = [parameter for group in groups for parameter in group["params"]]
    kept = Checkpoint(stage, model, optimizer, 0.998)
    torch.manual_seed(SEED + kept.step)
    losses: list[tuple[float, float]] = []

    while (share := stage.share) < 1:
        rate = warm_cosine(kept.step, 50, share)
        for group, full in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = full * rate
        picked = torch.randint(len(latents), (PICTURES,))
        told = torch.randint(captions.rows.shape[1], (PICTURES,))
        rows, named = captions.rows[picked, told], captions.named[picked, told]
        if share < _LONG_FROM:
            rows = rows[:, :_SHORT]
        batch = PICTURES * NOISES
        noise = torch.randn(batch, *latents.shape[1:])
        loss, names = model(latents[picked], rows, named, spread_steps(batch), noise)
        optimizer.zero_grad()
        (loss + _NAMES_WEIGHT * names).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step = kept.stepped()
        losses.append((loss.item(), names.item()))
        if step % _LOG_EVERY == 0:
            recent = np.mean(losses[-_LOG_EVERY:], 0)
            stage.log(step=step, loss=round(recent[0], 4), names=round(recent[1], 3))
        if stage.due:
            kept.save()
    kept.finish()


def train_families(folder: Path, minutes: float) -> tuple[SD1, SDXL, Captions]:
    """Both families, `minutes` in all; what lies in `folder` is gone on from."""
    pictures = load_renders(splits(1.0)["generator"], folder)
    demo = load_demo_pipeline()
    file = folder / "latents.pt"
    if not file.exists():
        torch.save(encode(demo.vae, pictures.pixels) * SCALING, file)
    latents = torch.load(file)
    captions = write_captions(pictures.scenes, DESCRIBED)
    sd1 = SD1(captions, demo)
    train_family(sd1, latents, captions, Stage("sd1", folder, minutes * SHARES["sd1"]))
    sdxl = SDXL(captions, demo, sd1.text_encoder)
    train_family(sdxl, latents, captions, Stage("sdxl", folder, minutes * SHARES["sdxl"]))
    return sd1, sdxl, captions
