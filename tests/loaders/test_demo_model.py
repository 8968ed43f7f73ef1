"""The shipped demo model: offline, complete, and read right by its judge."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from unlearn_core.errors import BadFile
from unlearn_core.loaders import demo_model
from unlearn_core.loaders.demo_model import (
    demo_folder,
    load_demo_judge,
    load_demo_pipeline,
    load_demo_world,
)
from unlearn_core.loaders.diffusers_model import load_model
from unlearn_core.loaders.model_files import fill_module
from unlearn_core.loaders.pipeline_folder import TOKEN_TABLE, restore_token_table
from unlearn_core.models.families import SD1, SDXL

# sha256 of the (49408, 192) float16 table as the model was exported.
TOKEN_TABLE_SHA256 = "993599fa616a99c9ca47a15843585df92e483c0b973f2a4ce77fe2810d177931"
MEGABYTE = 1_000_000


def picture(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        assert (image.size, image.mode) == ((64, 64), "RGB")
        pixels = torch.tensor(np.asarray(image))
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


def test_the_pipeline_loads_without_network_and_draws(no_network: None) -> None:
    before = torch.random.get_rng_state()
    pipeline = load_demo_pipeline()
    assert torch.equal(torch.random.get_rng_state(), before)
    table = pipeline.text_encoder.get_input_embeddings().weight
    assert table.shape == (49408, 192)
    digest = hashlib.sha256(table.detach().half().numpy().tobytes()).hexdigest()
    assert digest == TOKEN_TABLE_SHA256
    pipeline.set_progress_bar_config(disable=True)
    asked = [
        ("cat", "cartoon"), ("house", "3d"), ("banana", "flat"), ("lion", "sketch"),
        ("bus", "neon"), ("rose", "3d"), ("santa claus", "cartoon"), ("apple", "sketch"),
    ]  # fmt: skip
    drawn = pipeline(
        [f"a photo of a {name}, {style} style" for name, style in asked],
        num_inference_steps=15,
        guidance_scale=5.0,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
    ).images
    judge = load_demo_judge()
    objects, styles = judge.classify(drawn * 2 - 1)
    named = [judge.objects[index] for index in objects]
    styled = [judge.styles[index] for index in styles]
    assert sum(name == wanted for name, (wanted, _) in zip(named, asked, strict=True)) >= 7
    assert sum(style == wanted for style, (_, wanted) in zip(styled, asked, strict=True)) >= 6


def save_part(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    if weights:
        stem = "diffusion_pytorch_model" if folder.name == "unet" else "model"
        save_file(weights, folder / f"{stem}.safetensors")


def config_of(part: str, **changes: Any) -> dict[str, Any]:
    config = json.loads((demo_folder() / "model" / part / "config.json").read_text("utf-8"))
    return {**config, **changes}


@pytest.fixture
def demos_that_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """demo/ whose SD1 has a text encoder of its own, and whose SDXL a second one, to_k and to_v."""
    model = demo_folder() / "model"
    (tmp_path / "model").symlink_to(model)
    text = load_file(model / "text_encoder" / "model.safetensors")
    unet = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    kinds = {"sd1": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
    for name, kind in kinds.items():
        scheduler = tmp_path / name / "scheduler"
        scheduler.mkdir(parents=True)
        shutil.copy(model / "scheduler" / "scheduler_config.json", scheduler)
        (tmp_path / name / "model_index.json").write_text(
            json.dumps({"_class_name": kind}), "utf-8"
        )
    clip_l = config_of("text_encoder", hidden_act="quick_gelu", pad_token_id=49407)
    negated = {name: -value if value.is_floating_point() else value for name, value in text.items()}
    save_part(tmp_path / "sd1" / "text_encoder", clip_l, negated)
    save_part(tmp_path / "sd1" / "unet", config_of("unet", use_linear_projection=False), {})
    save_part(tmp_path / "sdxl" / "text_encoder", clip_l, {})
    second = {**text, "text_projection.weight": torch.eye(192).half()}
    save_part(tmp_path / "sdxl" / "text_encoder_2", config_of("text_encoder"), second)
    own = {
        name: torch.cat([value, value], 1)
        for name, value in unet.items()
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }
    edge = unet["time_embedding.linear_1.weight"].shape[0]
    for end, width in (("1", 384), ("2", edge)):
        own[f"add_embedding.linear_{end}.weight"] = torch.zeros(edge, width).half()
        own[f"add_embedding.linear_{end}.bias"] = torch.zeros(edge).half()
    config = config_of(
        "unet",
        cross_attention_dim=384,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=384,
    )
    save_part(tmp_path / "sdxl" / "unet", config, own)
    monkeypatch.setattr(demo_model, "demo_folder", lambda: tmp_path)
    return tmp_path


def test_demo_models_of_other_families_take_what_they_share(demos_that_share: Path) -> None:
    first = {part: getattr(load_demo_pipeline(), part).state_dict() for part in ("unet", "vae")}
    sd1, line = load_model("demo-sd1")
    assert (sd1.family, sd1.conditioning_layers, sd1.native_size) == (SD1, (5,), 64)
    assert line == "prediction: v (its scheduler_config.json says so)"
    unet = sd1.pipeline.unet.state_dict()
    assert unet.keys() == first["unet"].keys()
    for name, value in unet.items():
        assert torch.equal(value, first["unet"][name].reshape(value.shape)), name
    assert unet["mid_block.attentions.0.proj_in.weight"].dim() == 4
    sdxl, _ = load_model("demo-xl")
    assert (sdxl.family, sdxl.conditioning_layers, sdxl.native_size) == (SDXL, (4, 4), 64)
    for part in (sd1, sdxl):
        vae = part.pipeline.vae.state_dict()
        assert all(torch.equal(value, vae[name]) for name, value in first["vae"].items())
    mixed = sdxl.pipeline.unet.state_dict()
    for name, value in first["unet"].items():
        columns = 2 if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) else 1
        assert torch.equal(mixed[name], torch.cat([value] * columns, 1) if columns > 1 else value)
    weights = sdxl.text_encoder_weights()
    first_tower = sd1.text_encoder_weights()
    assert all(torch.equal(weights[f"te1.{name}"], value) for name, value in first_tower.items())
    table = "text_model.embeddings.token_embedding.weight"
    assert torch.equal(weights[f"te2.{table}"], -weights[f"te1.{table}"])
    output = sdxl.predict(torch.zeros(1, 4, 8, 8), torch.tensor([500]), sdxl.ramp())
    assert bool(output.isfinite().all())


def test_what_no_demo_folder_holds_is_missing(demos_that_share: Path) -> None:
    file = demos_that_share / "sdxl" / "text_encoder_2" / "model.safetensors"
    file.unlink()
    with pytest.raises(BadFile, match=r"text_encoder_2/model\.safetensors is missing"):
        load_demo_pipeline("sdxl")
    own = demos_that_share / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors"
    own.unlink()
    with pytest.raises(BadFile, match=r"lacks weights: 4, the first is add_embedding"):
        load_demo_pipeline("sdxl")


def test_the_shipped_folder_stays_small() -> None:
    size = sum(file.stat().st_size for file in demo_folder().rglob("*") if file.is_file())
    assert size <= 44 * MEGABYTE


def test_the_judge_reads_each_shipped_picture_right() -> None:
    judge = load_demo_judge()
    folders = sorted((demo_folder() / "pictures").iterdir())
    names = {folder.name.replace("-", " ") for folder in folders}
    assert names >= {"apple", "car", "cat", "dagger", "dog", "neon", "santa claus", "sketch"}
    assert names <= {*judge.objects, *judge.styles}
    for folder in folders:
        files = sorted(folder.iterdir())
        assert [file.name for file in files] == [f"{index}.png" for index in range(5)]
        objects, styles = judge.classify(torch.stack([picture(file) for file in files]))
        named = [judge.objects[index] for index in objects]
        if folder.name in judge.styles:
            assert {judge.styles[index] for index in styles} == {folder.name}
            assert len(set(named)) == 5
        else:
            assert set(named) == {folder.name.replace("-", " ")}
            assert len({int(index) for index in styles}) == 5


def test_the_world_names_what_the_judge_knows() -> None:
    world, judge = load_demo_world(), load_demo_judge()
    assert [*world["objects"], *world["controls"]] == judge.objects
    assert list(world["styles"]) == judge.styles
    categories = {entry["category"] for entry in world["objects"].values()}
    assert categories <= set(world["hypernyms"])


def test_a_table_that_is_whole_passes_through_and_a_compact_one_is_spread_out() -> None:
    whole = {TOKEN_TABLE: torch.ones(5, 2)}
    assert restore_token_table(whole, 5) is whole
    compact = {
        f"{TOKEN_TABLE}.rows": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        f"{TOKEN_TABLE}.row_ids": torch.tensor([3, 0]),
    }
    table = restore_token_table(compact, 4)[TOKEN_TABLE]
    assert table.tolist() == [[3, 4], [0, 0], [0, 0], [1, 2]]


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {f"{TOKEN_TABLE}.rows": torch.ones(2, 3)},
        {f"{TOKEN_TABLE}.rows": torch.ones(2, 3), f"{TOKEN_TABLE}.row_ids": torch.tensor([1])},
        {f"{TOKEN_TABLE}.rows": torch.ones(1, 3), f"{TOKEN_TABLE}.row_ids": torch.tensor([4])},
        {f"{TOKEN_TABLE}.rows": torch.ones(1, 3), f"{TOKEN_TABLE}.row_ids": torch.tensor([-1])},
    ],
)
def test_a_damaged_token_table_is_refused(weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(BadFile):
        restore_token_table(weights, 4)


def test_missing_unknown_and_misshapen_weights_are_named() -> None:
    module = torch.nn.Linear(2, 3)
    good = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    for bad, word in (
        ({"weight": good["weight"]}, "lacks weights: 1, the first is bias"),
        ({**good, "extra": torch.ones(1)}, "unknown weights: 1, the first is extra"),
        ({**good, "bias": torch.ones(4)}, "misshapen weights: 1, the first is bias"),
    ):
        with pytest.raises(BadFile, match=word):
            fill_module(module, bad, Path("file"))


def test_a_damaged_installation_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_model, "demo_folder", lambda: tmp_path)
    with pytest.raises(BadFile, match=r"model_index\.json"):
        load_demo_pipeline()
    with pytest.raises(BadFile, match="missing"):
        load_demo_world()
    (tmp_path / "world.json").write_text("[1]", "utf-8")
    with pytest.raises(BadFile, match="list"):
        load_demo_world()
    (tmp_path / "world.json").write_text("{", "utf-8")
    with pytest.raises(BadFile, match="JSON"):
        load_demo_world()
    (tmp_path / "judge").mkdir()
    config = {"objects": ["a"], "styles": ["b"], "stem_width": 2, "block_widths": [2]}
    (tmp_path / "judge" / "judge.json").write_text(json.dumps(config), "utf-8")
    (tmp_path / "judge" / "judge.safetensors").write_bytes(b"nonsense")
    with pytest.raises(BadFile, match="safetensors"):
        load_demo_judge()
