"""Loading a diffusers folder: the same weights, and refusals that say why."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from unlearn_core.demo_model import demo_folder, load_demo_pipeline
from unlearn_core.diffusers_model import load_model
from unlearn_core.errors import BadFile, WrongModel


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def copy_of_demo(folder: Path) -> Path:
    shutil.copytree(demo_folder() / "model", folder)
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


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
        ("unet", {"addition_embed_type": "text_time"}, WrongModel, "extra conditions"),
        ("text_encoder", {"hidden_act": "quick_gelu"}, WrongModel, "quick_gelu"),
        ("text_encoder", {"num_hidden_layers": 7}, BadFile, "lacks weights"),
        ("model_index", {"_class_name": "StableDiffusionXLPipeline"}, WrongModel, "XL"),
        ("scheduler", {"prediction_type": "sample"}, WrongModel, "predicts sample"),
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


def test_sd1_folders_and_whole_openclip_folders_are_named(tmp_path: Path) -> None:
    folder = copy_of_demo(tmp_path / "model")
    edit(folder / "unet" / "config.json", cross_attention_dim=768)
    edit(folder / "text_encoder" / "config.json", hidden_size=768)
    with pytest.raises(WrongModel, match=r"SD 1\.x: its text width is 768"):
        load_model(folder)
    edit(folder / "unet" / "config.json", cross_attention_dim=1024)
    edit(folder / "text_encoder" / "config.json", hidden_size=1024, num_hidden_layers=24)
    with pytest.raises(WrongModel, match="num_hidden_layers to 23"):
        load_model(folder)


def test_layers_beyond_the_config_are_left_out(tmp_path: Path) -> None:
    folder = copy_of_demo(tmp_path / "model")
    edit(folder / "text_encoder" / "config.json", num_hidden_layers=5)
    assert load_model(folder)[0].last_used_layer == 4


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
