"""How well the demo's SD1 and SDXL draw: by name, by description, and with streams blanked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from torch import Tensor

from bench.emoji_canvas.captions import article
from bench.emoji_canvas.descriptions import DESCRIPTIONS
from bench.emoji_canvas.families.export import load_family
from bench.emoji_canvas.families.models import end_padded
from bench.emoji_canvas.pictures import Scene
from bench.emoji_canvas.training.judges import accuracy
from bench.emoji_canvas.training.measure import DRAW_STEPS, GRAMMARS, SEED, asked_scenes, sheet
from bench.emoji_canvas.world import BACKGROUNDS, OBJECTS, STYLES
from bench.protocol.cells import GUIDANCE
from unlearn_core.loaders.demo_model import Judge
from unlearn_core.models.sampling import paired_noise
from unlearn_core.text.tokenizer import EOS, token_ids

STREAMS = {
    "all": (True, True, True),
    "first tokens blanked": (False, True, True),
    "second tokens blanked": (True, False, True),
    "pooled blanked": (True, True, False),
    "first tokens only": (True, False, False),
    "second tokens only": (False, True, False),
    "pooled only": (False, False, True),
}
"""What is kept of SDXL's first tokens, second tokens and pooled vector."""
EACH, PAIRS = 2, 200
"""Pictures of each object in each style, and of pairs."""
_BATCH = 64


def described_scenes() -> tuple[list[Scene], list[str]]:
    """Every description in every style, with its prompt; from a fixed seed."""
    rng = np.random.default_rng(SEED)
    scenes, prompts = [], []
    every = [
        (index, text) for index, thing in enumerate(OBJECTS) for text in DESCRIPTIONS[thing.name]
    ]
    for number, ((index, text), style) in enumerate(product(every, STYLES)):
        background = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
        scenes.append(Scene((index,), style, background))
        grammar = GRAMMARS[number % len(GRAMMARS)]
        it = f"{article(text)} {text}"
        prompts.append(grammar.format(it=it, bare=text, style=style, background=background))
    return scenes, prompts


@torch.no_grad()
def encode_streams(pipeline: Any, prompts: Sequence[str]) -> list[Tensor]:
    """SD1: [tokens]; SDXL: [first tokens, second tokens, pooled]; (N, 77, 192) or (N, 192)."""
    ids = torch.cat([token_ids(prompt) for prompt in prompts])
    first = pipeline.text_encoder(end_padded(ids, EOS), output_hidden_states=True)
    if not isinstance(pipeline, StableDiffusionXLPipeline):
        return [first.last_hidden_state]
    second = pipeline.text_encoder_2(ids, output_hidden_states=True)
    return [first.hidden_states[-2], second.hidden_states[-2], second.text_embeds]


def draw(pipeline: Any, prompts: Sequence[str], kept: Sequence[bool] = (True,) * 3) -> Tensor:
    """(N, 3, 64, 64) in [-1, 1], 20 DDIM steps at guidance 5; "" gives what is not `kept`."""
    pipeline.set_progress_bar_config(disable=True)
    empty = encode_streams(pipeline, [""])
    drawn = []
    for start in range(0, len(prompts), _BATCH):
        part = prompts[start : start + _BATCH]
        blank = [stream.expand(len(part), *stream.shape[1:]) for stream in empty]
        streams = [
            full if keep else none
            for full, none, keep in zip(encode_streams(pipeline, part), blank, kept, strict=False)
        ]
        words: dict[str, Tensor] = {
            "prompt_embeds": torch.cat(streams[:2], 2),
            "negative_prompt_embeds": torch.cat(blank[:2], 2),
        }
        if len(streams) > 1:
            words["pooled_prompt_embeds"] = streams[2]
            words["negative_pooled_prompt_embeds"] = blank[2]
        noise = [paired_noise(SEED, index, 64, 64) for index in range(start, start + len(part))]
        pictures = pipeline(
            **words, latents=torch.cat(noise), height=64, width=64, guidance_scale=GUIDANCE,
            num_inference_steps=DRAW_STEPS, output_type="pt",
        ).images  # fmt: skip
        drawn.append(pictures * 2 - 1)
    return torch.cat(drawn)


def measure_families(folder: Path, judges: Mapping[str, Judge], small: bool) -> dict[str, Any]:
    """Shares that both judges read right, of FOLDER/sd1 and FOLDER/sdxl; SDXL's sheet beside them.

    `small` draws every object once in each style and ten pairs.
    """
    report: dict[str, Any] = {"draw_steps": DRAW_STEPS, "guidance": GUIDANCE, "seed": SEED}
    report["sd1"] = measure_family(folder, "sd1", judges, small)
    report["sdxl"] = measure_family(folder, "sdxl", judges, small)
    scenes, prompts = asked_scenes(1, 0)
    pipeline = load_family(folder, "sdxl")
    pixels = {name: draw(pipeline, prompts, kept) for name, kept in STREAMS.items()}
    report["sdxl"]["streams"] = {name: _read(judges, pixels[name], scenes) for name in STREAMS}
    objects_sheet(pixels["all"]).save(folder / "sdxl.jpg", quality=80, optimize=True)
    return report


def measure_family(
    folder: Path, name: str, judges: Mapping[str, Judge], small: bool
) -> dict[str, Any]:
    """What is drawn by name, all and by object, and by description."""
    pipeline = load_family(folder, name)
    scenes, prompts = asked_scenes(1, 10) if small else asked_scenes(EACH, PAIRS)
    pixels = draw(pipeline, prompts)
    by_object = {
        thing.name: _read(judges, *_alone(pixels, scenes, index), "object")
        for index, thing in enumerate(OBJECTS)
    }
    described, prompts = described_scenes()
    return {
        "named": _read(judges, pixels, scenes),
        "by object": by_object,
        "described": _read(judges, draw(pipeline, prompts), described),
    }


def _alone(pixels: Tensor, scenes: Sequence[Scene], index: int) -> tuple[Tensor, list[Scene]]:
    chosen = [row for row, scene in enumerate(scenes) if scene.objects == (index,)]
    return pixels[chosen], [scenes[row] for row in chosen]


def _read(
    judges: Mapping[str, Judge], pixels: Tensor, scenes: Sequence[Scene], *only: str
) -> dict[str, dict[str, float]]:
    return {
        design: {
            what: round(share, 4)
            for what, share in accuracy(judge, pixels, scenes).items()
            if share == share and what in (only or (what,))
        }
        for design, judge in judges.items()
    }


def objects_sheet(pixels: Tensor) -> Image.Image:
    """Every object in every style, at the pictures' own size."""
    paper = sheet(pixels, 4 * len(STYLES))
    return paper.resize((paper.width // 2, paper.height // 2), Image.Resampling.NEAREST)
