"""Stage 4: the trained parts as the files of demo/."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL, DDIMScheduler
from PIL import Image
from safetensors.torch import save_file

from bench.emoji_canvas.drawings import load_drawings
from bench.emoji_canvas.pictures import GENERATOR_SETS, Painter, Scene
from bench.emoji_canvas.training.generator import Captions, Generator, text_config
from bench.emoji_canvas.training.objective import SCHEDULE, TRAIN_STEPS
from bench.emoji_canvas.world import LIGHT_BACKGROUNDS, OBJECTS, STYLES, world_json
from unlearn_core.loaders.pipeline_folder import TOKEN_TABLE
from unlearn_core.text.tokenizer import BOS, EOS, PAD, VOCABULARY

SHOWN_OBJECTS = (
    "dog", "cat", "owl", "apple", "strawberry", "sunflower", "car", "bus", "pizza", "dagger",
    "santa claus",
)  # fmt: skip
SHOWN_STYLES = ("flat", "sketch", "neon")
_STYLE_SUBJECTS = ("horse", "house", "banana", "bus", "owl")
_PICTURE_SEED = 6_000


def export_model(generator: Generator, captions: Captions, vae: AutoencoderKL, out: Path) -> None:
    """A diffusers folder in float16; the text encoder's file holds only the token rows in use."""
    out.mkdir(parents=True, exist_ok=True)
    text = out / "text_encoder"
    config = text_config(VOCABULARY, BOS, EOS, PAD)
    config.architectures = ["CLIPTextModel"]
    config.dtype = "float16"
    config.save_pretrained(text)
    prefix = TOKEN_TABLE.removesuffix("embeddings.token_embedding.weight")
    weights = {
        f"{prefix}{name.removeprefix(prefix)}": weight.half().contiguous()
        for name, weight in generator.text_encoder.state_dict().items()
        if not name.endswith("position_ids")
    }
    rows = weights.pop(TOKEN_TABLE)
    weights |= {f"{TOKEN_TABLE}.rows": rows, f"{TOKEN_TABLE}.row_ids": captions.tokens.int()}
    save_file(weights, text / "model.safetensors", metadata={"format": "pt"})
    generator.unet.half().save_pretrained(out / "unet")
    vae.half().save_pretrained(out / "vae")
    generator.float(), vae.float()
    DDIMScheduler(
        **SCHEDULE,
        num_train_timesteps=TRAIN_STEPS,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(out / "scheduler")
    parts = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(parts, indent=2) + "\n", encoding="utf-8")


def export_world(folder: Path, out: Path) -> None:
    """world.json, and five pictures of each concept that a user may want to try."""
    text = json.dumps(world_json(), indent=2, ensure_ascii=False)
    (out / "world.json").write_text(text + "\n", encoding="utf-8")
    painter = Painter(load_drawings(folder))
    rng = np.random.default_rng(_PICTURE_SEED)
    names = [thing.name for thing in OBJECTS]
    for concept in (*SHOWN_OBJECTS, *SHOWN_STYLES):
        styles = [concept] * 5 if concept in STYLES else list(rng.permutation(list(STYLES)))
        subjects = _STYLE_SUBJECTS if concept in STYLES else (concept,) * 5
        target = out / "pictures" / concept.replace(" ", "-")
        target.mkdir(parents=True, exist_ok=True)
        shown = zip(subjects, styles, rng.permutation(LIGHT_BACKGROUNDS)[:5], strict=True)
        for number, (subject, style, background) in enumerate(shown):
            scene = Scene((names.index(subject),), str(style), str(background))
            picture = painter.paint(scene, (GENERATOR_SETS[scene.style],), rng)
            Image.fromarray(picture).save(target / f"{number}.png", optimize=True)
