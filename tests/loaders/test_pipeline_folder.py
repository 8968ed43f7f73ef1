"""Loading a diffusers folder: the same weights, and refusals that say why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from unlearn_core.errors import BadFile, WrongModel
from unlearn_core.loaders.demo_model import demo_folder, load_demo_pipeline
from unlearn_core.loaders.diffusers_model import load_model
from unlearn_core.loaders.model_configs import FOLDER_HINT, SINGLE_FILE_HINT, guess_prediction
from unlearn_core.models.families import SD1, SD2, SDXL


def copy_of_demo(folder: Path) -> Path:
    shutil.copytree(demo_folder() / "model", folder)
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def test_a_saved_pipeline_loads_to_the_same_weights(tmp_path: Path) -> None:
    pipeline = load_demo_pipeline()
    pipeline.save_pretrained(str(tmp_path / "saved"))
    model, line = load_model(tmp_path / "saved")
    assert line.startswith("prediction: v")
    for part in ("unet", "vae", "text_encoder"):
        old = getattr(pipeline, part).state_dict()
        for name, value in getattr(model.pipeline, part).state_dict().items():
            assert torch.equal(value.cpu(), old[name].to(value.dtype)), name


@pytest.mark.parametrize(
    ("file", "changes", "error", "message"),
    [
        ("unet", {"in_channels": 9}, WrongModel, "an inpainting model"),
        ("unet", {"cross_attention_dim": 128}, WrongModel, "two models"),
        ("unet", {"addition_embed_type": "text_time"}, WrongModel, "SDXL's refiner"),
        ("unet", {"addition_embed_type": "text_image"}, WrongModel, "other conditions"),
        ("unet", {"class_embed_type": "projection"}, WrongModel, "other conditions.*unCLIP"),
        ("unet", {"time_cond_proj_dim": 256}, WrongModel, "other conditions"),
        ("text_encoder", {"hidden_act": "relu"}, WrongModel, "is 'relu', not gelu"),
        ("text_encoder", {"num_hidden_layers": 7}, BadFile, "lacks weights"),
        (
            "model_index",
            {"_class_name": "StableDiffusionXLPipeline"},
            BadFile,
            r"text_encoder_2/config\.json",
        ),
        (
            "model_index",
            {"text_encoder": [None, None], "text_encoder_2": ["transformers", "x"]},
            WrongModel,
            "SDXL's refiner: it lacks the first text encoder",
        ),
        (
            "model_index",
            {"_class_name": "FluxPipeline", "transformer": ["diffusers", "x"]},
            WrongModel,
            "this is a FluxPipeline",
        ),
        ("model_index", {"_class_name": "StableDiffusion3Pipeline"}, WrongModel, "Diffusion3"),
        ("scheduler", {"prediction_type": "sample"}, WrongModel, "predicts sample"),
        (
            "scheduler",
            {"_class_name": "EDMDPMSolverMultistepScheduler"},
            WrongModel,
            "another kind of noise .EDMDPM",
        ),
        ("scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, WrongModel, "FlowMatch"),
    ],
)
def test_a_folder_of_another_model_is_refused(
    tmp_path: Path, file: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    folder = copy_of_demo(tmp_path / "model")
    paths = {
        "model_index": folder / "model_index.json",
        "scheduler": folder / "scheduler" / "scheduler_config.json",
    }
    edit(paths.get(file, folder / file / "config.json"), **changes)
    with pytest.raises(error, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet", {"down_block_types": ["x", "x", "x"]}, "unet/config.json can't be used"),
        ("unet", {"layers_per_block": 10**9}, "layers_per_block"),
        ("unet", {"in_channels": [4]}, "another kind of model"),
        ("unet", {"sample_size": "64"}, "sample_size is '64'"),
        ("vae", {"block_out_channels": "x"}, "vae/config.json can't be used"),
        ("vae", {"scaling_factor": None}, "scaling_factor is None"),
        ("text_encoder", {"num_attention_heads": 7}, "text_encoder/config.json can't be used"),
        ("text_encoder", {"num_hidden_layers": None}, "num_hidden_layers .* is None"),
        ("text_encoder", {"vocab_size": None}, "has 'nothing' tokens"),
        (
            "text_encoder",
            {"vocab_size": 49410},
            "has 49410 tokens.*textual inversion.*resize_token",
        ),
        ("unet", {"downsample_padding": None}, r"unet/config\.json describes can't compute"),
        ("unet", {"attention_head_dim": -1}, r"unet/config\.json describes can't compute"),
        ("vae", {"norm_num_groups": -1}, r"vae/config\.json describes can't compute"),
        ("scheduler", {"beta_schedule": "x"}, "scheduler_config.json can't be used"),
        ("scheduler", {"beta_start": float("nan")}, "set beta_start to"),
        ("scheduler", {"beta_end": 1e6}, "set beta_start to"),
        ("scheduler", {"prediction_type": "x" * 5000}, "predicts x{60}; this pack"),
        ("scheduler", {"beta_start": "x"}, "scheduler_config.json can't be used"),
    ],
)
def test_a_config_that_is_not_as_expected_is_one_line(
    tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    folder = copy_of_demo(tmp_path / "model")
    scheduler = folder / "scheduler" / "scheduler_config.json"
    edit(scheduler if file == "scheduler" else folder / file / "config.json", **changes)
    with pytest.raises(WrongModel, match=message) as caught:
        load_model(folder)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("text", ["[" * 100_000, "7", "{", "\xff"])
def test_a_config_that_is_no_json_object_is_named(tmp_path: Path, text: str) -> None:
    folder = copy_of_demo(tmp_path / "model")
    (folder / "unet" / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(BadFile, match=r"unet/config\.json"):
        load_model(folder)


@pytest.mark.parametrize(
    ("stated", "size"), [(None, (768, 768)), ([8, 16], (128, 64)), ([8, 8], (64, 64))]
)
def test_pictures_have_the_size_that_the_unet_states(
    tmp_path: Path, stated: Any, size: tuple[int, int]
) -> None:
    folder = copy_of_demo(tmp_path / "model")
    edit(folder / "unet" / "config.json", sample_size=stated)
    model, _ = load_model(folder)
    assert (model.picture_size, model.native_size) == (size, min(size))


def test_a_folder_that_does_not_say_its_prediction_is_guessed_and_says_so(tmp_path: Path) -> None:
    folder = copy_of_demo(tmp_path / "model")
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type=None)
    model, line = load_model(folder)
    assert model.prediction == "epsilon"
    assert line == (
        "prediction: epsilon (its scheduler_config.json does not say; guessed: the weights hold no "
        "hint; if pictures are noise, ask for v)"
    )
    assert load_model(folder, "v")[0].prediction == "v"


@pytest.mark.parametrize(("spread", "prediction"), [(0.05, "epsilon"), (0.2, "v")])
def test_the_guess_for_a_folder_is_that_for_single_files(spread: float, prediction: str) -> None:
    bias = torch.tensor([-spread, spread])
    for hint in (SINGLE_FILE_HINT, FOLDER_HINT):
        found, ground = guess_prediction(SD2, {hint[0]: bias}, hint)
        assert found == prediction
        assert f"{spread:.3f}" in ground
        for family in (SD1, SDXL):
            found, ground = guess_prediction(family, {hint[0]: bias}, hint)
            assert (found, ground.startswith(f"guessed: {family.name} does")) == ("epsilon", True)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_number_that_is_not_finite_is_refused_with_file_and_tensor(
    tmp_path: Path, part: str
) -> None:
    folder = copy_of_demo(tmp_path / "model")
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name in sorted(weights) if name.endswith(".bias"))
    weights[name][0] = torch.nan
    save_file(weights, file)
    with pytest.raises(BadFile, match=f"{file.name}: {name} holds numbers that are not finite"):
        load_model(folder)


@pytest.mark.parametrize("value", [torch.zeros(()), torch.zeros(1), torch.zeros(5, 5)])
def test_a_weight_of_another_shape_is_named(tmp_path: Path, value: torch.Tensor) -> None:
    folder = copy_of_demo(tmp_path / "model")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "conv_in.weight": value}, file)
    with pytest.raises(BadFile, match=r"misshapen weights: 1, the first is conv_in\.weight"):
        load_model(folder)


@pytest.mark.parametrize("name", ["rows", "row_ids"])
def test_compact_rows_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    folder = copy_of_demo(tmp_path / "model")
    file = folder / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    (full,) = (key for key in weights if key.endswith(f".{name}"))
    for value in (weights[full][0, 0] if name == "rows" else weights[full][0], weights[full][:1]):
        save_file({**weights, full: value.clone()}, file)
        with pytest.raises(BadFile, match="token_embedding"):
            load_model(folder)


def test_a_folder_with_the_layer_that_sd2_leaves_unused_is_refused(tmp_path: Path) -> None:
    folder = copy_of_demo(tmp_path / "model")
    edit(folder / "unet" / "config.json", cross_attention_dim=1024)
    edit(folder / "text_encoder" / "config.json", hidden_size=1024, num_hidden_layers=24)
    with pytest.raises(WrongModel, match="num_hidden_layers to 23"):
        load_model(folder)


def test_layers_beyond_the_config_are_left_out(tmp_path: Path) -> None:
    folder = copy_of_demo(tmp_path / "model")
    edit(folder / "text_encoder" / "config.json", num_hidden_layers=5)
    assert load_model(folder)[0].conditioning_layers == (4,)


def test_names_of_old_vae_files_are_understood(tmp_path: Path) -> None:
    folder = copy_of_demo(tmp_path / "model")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items():
        weights = {k.replace(f".{new}.", f".{name}."): v for k, v in weights.items()}
    assert any(".query." in name for name in weights)
    save_file(weights, file)
    load_model(folder)


def test_damaged_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"no model_index\.json"):
        load_model(tmp_path)
    folder = copy_of_demo(tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadFile, match="not a whole safetensors file"):
        load_model(folder)
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(BadFile, match="pickles"):
        load_model(folder)
    weights.with_suffix(".bin").unlink()
    with pytest.raises(BadFile, match="missing"):
        load_model(folder)
