"""The demo world's recipe: words, pictures, and the parts of its training."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.emoji_canvas import captions, pictures, world
from bench.emoji_canvas.captions import HELD_OUT_GRAMMARS, LABELS, write_caption
from bench.emoji_canvas.descriptions import DESCRIPTIONS
from bench.emoji_canvas.pictures import (
    GENERATOR_SETS,
    JUDGE_SETS,
    UNSEEN_SETS,
    Painter,
    Scene,
    random_scene,
)
from bench.emoji_canvas.training.autoencoder import encode, new_autoencoder, reconstruct, whiten
from bench.emoji_canvas.training.judges import load_transformer_judge, new_judge, save_judge
from bench.emoji_canvas.training.muon import orthogonal
from bench.emoji_canvas.training.stage import Stage
from bench.emoji_canvas.world import BACKGROUNDS, CONTROLS, OBJECTS, STYLES
from unlearn_core.loaders.demo_model import load_demo_world
from unlearn_core.words import prompt_templates


def test_the_shipped_world_is_the_one_that_the_recipe_makes() -> None:
    shipped = load_demo_world()
    assert shipped == world.world_json()


def test_names_are_unique_and_controls_are_apart() -> None:
    words = [word for thing in OBJECTS + CONTROLS for word in (thing.name, *thing.synonyms)]
    assert len(words) == len(set(words))
    assert {thing.category for thing in OBJECTS} <= set(world.HYPERNYMS)
    assert {"weapon", "character"} <= {thing.category for thing in OBJECTS}


def test_no_set_is_both_seen_and_unseen_in_a_style() -> None:
    for style in STYLES:
        assert UNSEEN_SETS[style] not in JUDGE_SETS[style]
        assert UNSEEN_SETS[style] != GENERATOR_SETS[style]
        assert GENERATOR_SETS[style] in JUDGE_SETS[style]


def test_a_caption_says_what_its_labels_say() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        scene = random_scene(rng, len(OBJECTS), 0.25)
        caption = write_caption(scene, rng)
        named = {LABELS[label] for label in caption.labels}
        shown = {OBJECTS[index].name for index in scene.objects}
        assert named <= {*shown, scene.style, scene.background}
        for index in scene.objects:
            thing = OBJECTS[index]
            said = any(
                re.search(rf"\b{word}\b", caption.text) for word in (thing.name, *thing.synonyms)
            )
            assert said == (thing.name in named)
        if len(scene.objects) == 2:
            assert shown <= named


def test_a_description_names_no_object() -> None:
    names = {name for thing in OBJECTS + CONTROLS for name in (thing.name, *thing.synonyms)}
    words = {word for name in names for word in name.split()}
    assert list(DESCRIPTIONS) == [thing.name for thing in OBJECTS]
    every = [text for texts in DESCRIPTIONS.values() for text in texts]
    assert len(every) == len(set(every)) == 2 * len(OBJECTS)
    for text in every:
        assert not words & set(re.findall("[a-z]+", text)), text


def test_a_described_object_is_not_named() -> None:
    rng = np.random.default_rng(0)
    labels = (LABELS.index("rabbit"),)
    rabbit = Scene(labels, "neon", "blue")
    written = [write_caption(rabbit, rng, described=0.5) for _ in range(200)]
    described = [caption for caption in written if "long-eared animal" in caption.text]
    assert len(described) > 20
    for caption in described:
        assert "rabbit" not in caption.text
        assert labels[0] in caption.labels


def test_the_demo_models_own_captions_are_still_the_same() -> None:
    rng = np.random.default_rng(0)
    scenes = (random_scene(rng, len(OBJECTS), 0.25) for _ in range(500))
    text = "\n".join(write_caption(scene, rng).text for scene in scenes)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "1d245519ba2a07bb"


def test_captions_of_a_scene_vary() -> None:
    rng = np.random.default_rng(0)
    scene = Scene((0,), "neon", "blue")
    texts = {write_caption(scene, rng).text for _ in range(300)}
    assert "a neon sign of a dog on a blue background" in texts
    assert "on a blue background there is a dog, neon style" in texts
    assert len(texts) > 60


def test_no_template_of_the_eraser_uses_a_held_out_grammar() -> None:
    templates = [
        template
        for name, value in vars(prompt_templates).items()
        if name.isupper() and isinstance(value, tuple)
        for template in value
    ]
    assert len(templates) > 20
    for grammar in HELD_OUT_GRAMMARS:
        for phrase in ("there is", "this is", "behind it"):
            if phrase in grammar:
                assert not any(phrase in template for template in templates)


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_shows_its_object_on_its_background(painter: Painter, style: str) -> None:
    rng = np.random.default_rng(1)
    drawn = painter.paint(Scene((0,), style, "green"), ["noto"], rng)
    assert drawn.shape == (pictures.EDGE, pictures.EDGE, 3)
    assert drawn.dtype == np.uint8
    corner, middle = drawn[1, 1].astype(int), drawn[28:36, 28:36].astype(int).mean((0, 1))
    if style == "neon":
        assert corner.max() < 80
        assert drawn.max() > 200
    else:
        assert np.abs(corner - BACKGROUNDS["green"]).max() < 40
        assert np.abs(middle - corner).max() > 30


def test_styles_of_one_drawing_differ(painter: Painter) -> None:
    drawn = {
        style: painter.paint(Scene((0,), style, "blue"), ["noto"], np.random.default_rng(2))
        for style in STYLES
    }
    for first in STYLES:
        for second in STYLES:
            if first != second:
                gap = np.abs(drawn[first].astype(int) - drawn[second].astype(int))
                assert gap.mean() > 2, (first, second)


def test_a_pair_lies_left_and_right(painter: Painter) -> None:
    drawn = painter.paint(Scene((0, 1), "flat", "white"), ["noto"], np.random.default_rng(3))
    red = (drawn[..., 0].astype(int) - drawn[..., 1]) > 80
    assert red[:, :30].sum() > 200
    assert red[:, 34:].sum() > 200
    assert red[:, 31:33].sum() < 40


def test_scenes_hold_pairs_at_the_asked_rate() -> None:
    rng = np.random.default_rng(4)
    scenes = [random_scene(rng, 10, 0.25) for _ in range(2000)]
    assert 0.2 < np.mean([len(scene.objects) == 2 for scene in scenes]) < 0.3
    assert max(max(scene.objects) for scene in scenes) == 9
    assert all(len(set(scene.objects)) == len(scene.objects) for scene in scenes)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_muon_makes_an_update_nearly_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_whitening_scales_the_latents_and_changes_no_picture() -> None:
    vae = new_autoencoder().eval().requires_grad_(False)
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    before = reconstruct(vae, pixels)
    whiten(vae, encode(vae, pixels))
    latents = encode(vae, pixels) * 0.18215
    assert latents.mean((0, 2, 3)).abs().max() < 1e-4
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-4
    assert (reconstruct(vae, pixels) - before).abs().max() < 1e-3


def test_a_stage_goes_on_where_it_stopped(tmp_path: Path) -> None:
    stage = Stage("training", tmp_path, minutes=1)
    assert stage.load() is None
    stage.spent = 45.0
    stage.save(weights={"w": torch.ones(2)}, step=7)
    resumed = Stage("training", tmp_path, minutes=1)
    state = resumed.load()
    assert state is not None
    assert state["step"] == 7
    assert 0.75 <= resumed.share < 0.8
    assert not list(tmp_path.glob("*.tmp"))


def test_a_transformer_judge_comes_back_from_its_file(tmp_path: Path) -> None:
    judge = new_judge("transformer").eval()
    save_judge(judge, tmp_path)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        for written, read in zip(
            judge(pixels), load_transformer_judge(tmp_path)(pixels), strict=True
        ):
            assert (written - read).abs().max() < 1e-2


def test_articles() -> None:
    assert (captions.article("apple"), captions.article("dog")) == ("an", "a")


@pytest.mark.slow
def test_every_stage_runs_and_measures_itself(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="needs requirements-bench.txt")
    if shutil.which("npm") is None:
        pytest.skip("npm fetches the drawings")
    command = [sys.executable, "-m", "bench", "world", "rebuild", "--warm"]
    root = Path(world.__file__).parents[2]
    subprocess.run([*command, "--folder", tmp_path, "--minutes", "2"], cwd=root, check=True)
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["autoencoder"]["decibel"] > 20
    assert report["generator"]["pictures"] == len(OBJECTS) * len(STYLES) + 10
    assert set(report["judges"]) == {"judges-test", "unseen-test"}
    for name in ("model/unet", "model/text_encoder", "judge", "second_judge", "pictures/dagger"):
        assert list((tmp_path / "demo" / name).iterdir())
    assert json.loads((tmp_path / "demo" / "world.json").read_text("utf-8")) == world.world_json()
