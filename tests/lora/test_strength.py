"""The strength at which peft and diffusers apply a LoRA whose file holds no alpha."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from unlearn_core.errors import BadFile
from unlearn_core.lora.file import load_lora
from unlearn_core.lora.keys import peft_name, text_module

Q0, V3 = text_module(0, "q_proj"), text_module(3, "v_proj")
PEFT, DIFFUSERS = "base_model.model.text_model.", "text_encoder.text_model."


def tensors(prefix: str, rank: int = 8) -> dict[str, Tensor]:
    return {
        peft_name(key, part, prefix).replace(".default", ""): torch.ones(shape)
        for key in (Q0, V3)
        for part, shape in (("down", (rank, 16)), ("up", (16, rank)))
    }


def scales(path: Path) -> list[float]:
    return [pair.scale for pair in load_lora(path).pairs.values()]


def save_diffusers(path: Path, **said: Any) -> Path:
    config = {"unet.r": 2, **{f"text_encoder.{name}": value for name, value in said.items()}}
    save_file(tensors(DIFFUSERS), path, {"lora_adapter_metadata": json.dumps(config)})
    return path


def save_peft(folder: Path, config: str) -> Path:
    (folder / "adapter_config.json").write_text(config, "utf-8")
    save_file(tensors(PEFT), folder / "adapter_model.safetensors")
    return folder / "adapter_model.safetensors"


PLAIN = {"r": 8, "lora_alpha": 8}
SAID: list[tuple[dict[str, Any], list[float]]] = [
    ({"r": 8, "lora_alpha": 32}, [4.0, 4.0]),
    ({"r": 8, "lora_alpha": 32.0, "use_rslora": True}, [32 / math.sqrt(8)] * 2),
    ({"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 8, "v_proj": 8}}, [1.0, 1.0]),
]
PATTERNS: list[tuple[dict[str, float], list[float]]] = [
    ({"q_proj": 16}, [2.0, 1.0]),
    ({"layers.3.self_attn.v_proj": 4}, [1.0, 0.5]),
    ({r"layers\.3\.self_attn\.v_proj$": 4}, [1.0, 0.5]),
    ({"^text_model.encoder.layers.0.self_attn.q_proj": 0}, [0.0, 1.0]),
    ({"encoder.layers.0.self_attn.q_proj": 12, "q_proj": 16}, [1.5, 1.0]),
    ({"^q_proj": 16, "proj": 16, "x.v_proj": 2}, [1.0, 1.0]),
]
SAID += [({**PLAIN, "alpha_pattern": pattern}, expected) for pattern, expected in PATTERNS]


@pytest.mark.parametrize(("said", "expected"), SAID)
def test_the_strength_is_the_trained_one(
    said: dict[str, Any], expected: list[float], tmp_path: Path
) -> None:
    inside = save_diffusers(tmp_path / "a.safetensors", **said)
    beside = save_peft(tmp_path, json.dumps(said))
    for path in (inside, beside):
        assert scales(path) == pytest.approx(expected)
        assert load_lora(path).notes == ()


def test_peft_itself_scales_so(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    inner = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(16, 16, bias=False)})
    attention = torch.nn.ModuleDict({"self_attn": inner})
    encoder = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([attention])})
    model = torch.nn.ModuleDict({"encoder": encoder})
    config = peft.LoraConfig(
        r=8, lora_alpha=8, alpha_pattern={"q_proj": 24}, use_rslora=True, target_modules=["q_proj"]
    )
    theirs = peft.get_peft_model(model, config)
    layer = theirs.base_model.model["encoder"]["layers"][0]["self_attn"]["q_proj"]
    torch.nn.init.ones_(layer.lora_B["default"].weight)
    theirs.save_pretrained(str(tmp_path))
    read = load_lora(tmp_path / "adapter_model.safetensors").pairs[Q0]
    torch.testing.assert_close(read.delta(), layer.get_delta_weight("default").detach())


def test_without_a_word_about_alpha_a_note_says_that_the_rank_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(tensors(DIFFUSERS), path)
    (tmp_path / "adapter_config.json").write_text(
        '{"r": 8, "lora_alpha": 32}', "utf-8"
    )  # of another file
    assert scales(path) == [1.0, 1.0]
    assert "a.safetensors does not say its alpha" in load_lora(path).notes[0]
    only_unet = {"lora_adapter_metadata": '{"unet.r": 8, "unet.lora_alpha": 32}'}
    save_file(tensors(DIFFUSERS), path, only_unet)
    assert scales(path) == [1.0, 1.0]
    assert load_lora(path).notes


@pytest.mark.parametrize(
    "said",
    [
        {"r": 8},
        {"r": "8", "lora_alpha": 8},
        {"r": True, "lora_alpha": 8},
        {"r": 8, "lora_alpha": float("nan")},
        {"r": 8, "lora_alpha": 10**400},
        {"r": 8, "lora_alpha": 8, "alpha_pattern": [1]},
        {"r": 8, "lora_alpha": 8, "alpha_pattern": {"q_proj": "8"}},
        {"r": 8, "lora_alpha": 8, "alpha_pattern": {"(a+)+$": 8}},
        {"r": 8, "lora_alpha": 8, "rank_pattern": {"": 8}},
        {"r": 8, "lora_alpha": 8, "use_rslora": "yes"},
    ],
)
def test_a_strength_that_cannot_be_read_is_refused(said: dict[str, Any], tmp_path: Path) -> None:
    for path in (
        save_diffusers(tmp_path / "a.safetensors", **said),
        save_peft(tmp_path, json.dumps(said)),
    ):
        with pytest.raises(BadFile, match="strength of this LoRA is not known"):
            load_lora(path)


@pytest.mark.parametrize("text", ["nonsense", "7", '["r"]', "[" * 100_000])
def test_broken_json_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    save_file(tensors(DIFFUSERS), tmp_path / "a.safetensors", {"lora_adapter_metadata": text})
    for path in (tmp_path / "a.safetensors", save_peft(tmp_path, text)):
        with pytest.raises(BadFile):
            load_lora(path)


def test_matrices_of_another_rank_than_stated_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="has rank 4, and its matrices have 8"):
        load_lora(save_diffusers(tmp_path / "a.safetensors", r=4, lora_alpha=4))
