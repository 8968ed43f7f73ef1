"""Weights of a folder in one file, in parts with an index, or as a variant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from unlearn_core.errors import BadFile
from unlearn_core.loaders.demo_model import demo_folder
from unlearn_core.loaders.diffusers_model import load_model
from unlearn_core.loaders.weights_files import find_weights

PLAIN = "model.safetensors"


def save(folder: Path, name: str, **values: float) -> None:
    save_file({key: torch.tensor([value]) for key, value in values.items()}, folder / name)


def index(folder: Path, name: str, weight_map: Any) -> None:
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), "utf-8")


def read(folder: Path) -> dict[str, float]:
    return {name: float(value) for name, value in find_weights(folder, "model").read().items()}


def test_the_plain_file_goes_before_all_others(tmp_path: Path) -> None:
    save(tmp_path, PLAIN, a=1.0)
    save(tmp_path, "model.fp16.safetensors", a=2.0)
    index(tmp_path, f"{PLAIN}.index.json", {"a": "missing.safetensors"})
    assert read(tmp_path) == {"a": 1.0}
    assert find_weights(tmp_path, "model").note == ""


def test_parts_are_joined_as_their_index_says(tmp_path: Path) -> None:
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    save(tmp_path, one, a=1.0, b=2.0)
    save(tmp_path, two, b=3.0, c=4.0)
    save(tmp_path, "model.fp16.safetensors", a=9.0)
    index(tmp_path, f"{PLAIN}.index.json", {"a": one, "b": two, "c": two})
    assert read(tmp_path) == {"a": 1.0, "b": 3.0, "c": 4.0}
    (tmp_path / two).unlink()
    with pytest.raises(BadFile, match=f"lacks {two}, 1 of 2 parts"):
        read(tmp_path)
    index(tmp_path, f"{PLAIN}.index.json", {"a": one, "x": one})
    with pytest.raises(BadFile, match="lacks 1 weights, the first is x"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.non_ema.safetensors"], "model.non_ema.safetensors"),
        (["model.non_ema.safetensors", "model.bf16.safetensors"], "model.bf16.safetensors"),
        (["model.bf16.safetensors", "model.fp16.safetensors"], "model.fp16.safetensors"),
        (["model.ema.safetensors", "model.non_ema.safetensors"], "model.ema.safetensors"),
    ],
)
def test_a_variant_is_read_where_there_is_no_plain_file(
    names: list[str], chosen: str, tmp_path: Path
) -> None:
    for number, name in enumerate(names):
        save(tmp_path, name, a=float(number))
    save(tmp_path, "model.fp16-00001-of-00002.safetensors", a=7.0)
    save(tmp_path, "other.fp16.safetensors", a=8.0)
    assert read(tmp_path) == {"a": float(names.index(chosen))}
    assert f"{chosen} is read, for there is no {PLAIN}" in find_weights(tmp_path, "model").note


@pytest.mark.parametrize(
    "name", ["model.safetensors.index.fp16.json", "model.fp16.safetensors.index.json"]
)
def test_a_variant_may_be_in_parts(name: str, tmp_path: Path) -> None:
    parts = [f"model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for number, part in enumerate(parts):
        save(tmp_path, part, **{f"w{number}": float(number)})
    index(tmp_path, name, {"w0": parts[0], "w1": parts[1]})
    assert read(tmp_path) == {"w0": 0.0, "w1": 1.0}
    assert name in find_weights(tmp_path, "model").note


@pytest.mark.parametrize(
    "part",
    ["../a.safetensors", "/etc/a.safetensors", "x/a.safetensors", r"..\a.safetensors",
     "C:a.safetensors", "a.bin", "", ".safetensors", 7, None, "a" * 5000 + ".safetensors"],
)  # fmt: skip
def test_an_index_that_names_files_elsewhere_is_refused(part: Any, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    save(tmp_path, "a.safetensors", a=1.0)
    index(folder, f"{PLAIN}.index.json", {"a": part})
    with pytest.raises(BadFile, match="as a part; only a") as caught:
        read(folder)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("weight_map", [None, [], {}, "x", 7])
def test_an_index_without_a_list_is_refused(weight_map: Any, tmp_path: Path) -> None:
    index(tmp_path, f"{PLAIN}.index.json", weight_map)
    with pytest.raises(BadFile, match="lists no weights"):
        read(tmp_path)


def test_a_missing_folder_and_an_empty_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="There is no folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(BadFile, match=r"model\.safetensors is missing"):
        read(tmp_path)


def test_a_folder_in_parts_and_variants_loads_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo_folder() / "model", folder)
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(unet)
    names = sorted(weights)
    unet.unlink()
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for part, own in parts.items():
        save_file({name: weights[name] for name in own}, unet.parent / part)
    weight_map = {name: part for part, own in parts.items() for name in own}
    index(unet.parent, f"{unet.name}.index.json", weight_map)
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    vae.rename(vae.with_name("diffusion_pytorch_model.bf16.safetensors"))
    model, line = load_model(folder)
    expected = load_model("demo")[0].pipeline
    for name in ("unet", "vae"):
        own = getattr(expected, name).state_dict()
        for key, value in getattr(model.pipeline, name).state_dict().items():
            assert torch.equal(value, own[key])
    assert line.split("\n")[1:] == [
        "note: vae: diffusion_pytorch_model.bf16.safetensors is read, for there is no "
        "diffusion_pytorch_model.safetensors."
    ]
