"""How well the generator draws its world, as both judges read it, and how well they read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.emoji_canvas.captions import ADJECTIVE_GRAMMAR, HELD_OUT_GRAMMARS, article
from bench.emoji_canvas.pictures import EDGE, Scene
from bench.emoji_canvas.render import Renders
from bench.emoji_canvas.training.judges import accuracy
from bench.emoji_canvas.training.stage import as_batch
from bench.emoji_canvas.world import BACKGROUNDS, OBJECTS, STYLES
from bench.protocol.cells import GUIDANCE, draw_prompts
from unlearn_core.loaders.demo_model import Judge
from unlearn_core.loaders.diffusers_model import DiffusersModel
from unlearn_core.loaders.pipeline_folder import load_pipeline_folder
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.text.tokenizer import token_ids

DRAW_STEPS = 20
SEED = 7_000
EACH = 6
"""Pictures of each object in each style."""
PAIRS = 600
GRAMMARS = (
    "a photo of {it}, {style} style, on a {background} background",
    "{it}, in {style} style",
    "a picture of {it}, in the style of {style}, on a {background} background",
    ADJECTIVE_GRAMMAR,
    *HELD_OUT_GRAMMARS,
)


def asked_scenes(each: int = EACH, pairs: int = PAIRS) -> tuple[list[Scene], list[str]]:
    """Scenes and their prompts: every object in every style, then pairs; from a fixed seed."""
    rng = np.random.default_rng(SEED)
    asked = [
        ((index,), style, GRAMMARS[number % len(GRAMMARS)])
        for index, style, number in product(range(len(OBJECTS)), STYLES, range(each))
    ]
    for number in range(pairs):
        both = tuple(int(index) for index in rng.choice(len(OBJECTS), 2, replace=False))
        style = list(STYLES)[number % len(STYLES)]
        asked.append((both, style, GRAMMARS[number // len(STYLES) % len(GRAMMARS)]))
    scenes, prompts = [], []
    for objects, style, grammar in asked:
        scene = Scene(objects, style, list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))])
        things = [OBJECTS[index] for index in objects]
        bare = " and ".join(thing.name for thing in things)
        it = " and ".join(
            thing.name if thing.plural else f"{article(thing.name)} {thing.name}"
            for thing in things
        )
        background = scene.background
        scenes.append(scene)
        prompts.append(grammar.format(it=it, bare=bare, style=style, background=background))
    return scenes, prompts


def draw(folder: Path, prompts: Sequence[str]) -> Tensor:
    """(N, 3, 64, 64) in [-1, 1] from the diffusers folder, 20 steps at guidance 5."""
    model = DiffusersModel(load_pipeline_folder(folder, torch.float32).pipeline)
    ids = torch.cat([token_ids(prompt) for prompt in prompts])
    return draw_prompts(model, build_encoder(model), ids, SEED, steps=DRAW_STEPS)


def measure_generator(folder: Path, judges: dict[str, Judge], small: bool) -> dict[str, Any]:
    """Accuracy over all pictures and for each class, and seconds a picture; writes sheets beside
    `folder`.

    It holds model/; `small` draws every object once in each style and ten pairs.
    """
    scenes, prompts = asked_scenes(1, 10) if small else asked_scenes()
    started = monotonic()
    pixels = draw(folder / "model", prompts)
    report: dict[str, Any] = {
        "pictures": len(prompts),
        "seconds_each": round((monotonic() - started) / len(prompts), 4),
        "draw_steps": DRAW_STEPS,
        "guidance": GUIDANCE,
        "seed": SEED,
    }
    for name, judge in judges.items():
        report[name] = accuracy(judge, pixels, scenes) | {
            "objects": {
                thing.name: _of(judge, pixels, scenes, lambda s, i=index: s.objects == (i,))
                for index, thing in enumerate(OBJECTS)
            },
            "styles": {
                style: _of(judge, pixels, scenes, lambda s, style=style: s.style == style)
                for style in STYLES
            },
        }
    each = 1 if small else EACH
    single = pixels[: len(OBJECTS) * len(STYLES) * each : each]
    sheet(single, 4 * len(STYLES)).save(folder.parent / "objects.png")
    sheet(pixels[len(OBJECTS) * len(STYLES) * each :][:100], 20).save(folder.parent / "pairs.png")
    return report


def _of(judge: Judge, pixels: Tensor, scenes: Sequence[Scene], wanted: Any) -> dict[str, float]:
    chosen = [index for index, scene in enumerate(scenes) if wanted(scene)]
    read = accuracy(judge, pixels[chosen], [scenes[index] for index in chosen])
    return {name: round(share, 4) for name, share in read.items() if share == share}


def measure_judges(sets: dict[str, Renders], judges: dict[str, Judge]) -> dict[str, Any]:
    """Each judge's accuracy on each set of renders."""
    report: dict[str, Any] = {}
    for name, renders in sets.items():
        pixels = as_batch(torch.from_numpy(renders.pixels))
        report[name] = {
            design: accuracy(judge, pixels, renders.scenes) for design, judge in judges.items()
        }
    return report


def sheet(pixels: Tensor, columns: int) -> Image.Image:
    """Pictures (N, 3, 64, 64) side by side, at twice their size."""
    step = EDGE + 2
    paper = Image.new("RGB", (columns * step, -(-len(pixels) // columns) * step))
    for index, picture in enumerate(pixels):
        tile = ((picture + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        place = (index % columns * step + 1, index // columns * step + 1)
        paper.paste(Image.fromarray(tile), place)
    return paper.resize((2 * paper.width, 2 * paper.height), Image.Resampling.NEAREST)
