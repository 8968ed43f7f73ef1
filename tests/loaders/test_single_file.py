"""Loading a checkpoint in one file: names, the guessed prediction, and refusals that say why."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.cost.full_size_checkpoint import write_checkpoint
from unlearn_core.errors import BadFile, BadSettings, WrongModel
from unlearn_core.loaders import single_file
from unlearn_core.loaders.diffusers_model import load_model
from unlearn_core.text.conditioning import Conditioning

UNET = "model.diffusion_model."
SECOND = "conditioner.embedders.1.model."
TABLE = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"


def test_the_prediction_can_be_overruled(tiny_configs: Path, tmp_path: Path) -> None:
    model, line = load_model("demo", "epsilon")
    assert model.prediction == "epsilon"
    assert line.startswith("prediction: epsilon (as you asked; otherwise v")
    tiny = tmp_path / "tiny.safetensors"
    write_checkpoint(tiny, "epsilon")
    overruled, line = load_model(tiny, "v")
    assert (overruled.prediction, overruled.native_size) == ("v", 768)
    assert "otherwise epsilon: guessed" in line
    with pytest.raises(BadSettings):
        load_model("demo", "sample")  # type: ignore[arg-type]


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_single_file_loads_and_its_prediction_is_guessed(
    tiny_configs: Path, tmp_path: Path, prediction: Any
) -> None:
    file = tmp_path / "tiny.safetensors"
    write_checkpoint(file, prediction)
    model, line = load_model(file)
    assert model.prediction == prediction
    assert line.startswith(f"prediction: {prediction} (guessed: the spread of")
    assert model.native_size == {"epsilon": 512, "v": 768}[prediction]
    assert model.conditioning_layers == (2,)
    text = Conditioning(torch.ones(1, 77, 64))
    output = model.predict(torch.randn(1, 4, 16, 16), torch.tensor([5]), text)
    assert bool(output.isfinite().all())


def test_a_sidecar_tells_the_prediction(tiny_configs: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny.safetensors")
    for text, prediction, ground in (
        ('model:\n  params:\n    parameterization: "v"\n', "v", "says so"),
        ("    parameterization: v  # as trained\n", "v", "says so"),
        ("    parameterization: eps\n", "epsilon", "says so"),
        ("model: {}\n", "epsilon", "guessed"),
        ("# parameterization: v\n", "epsilon", "guessed"),
    ):
        (tmp_path / "tiny.yaml").write_text(text, "utf-8")
        found, reason = single_file.SingleFile(tmp_path / "tiny.safetensors").guess_prediction()
        assert (found, ground in reason) == (prediction, True), text


def test_scaled_float8_weights_load_as_the_weights_they_stand_for(
    tiny_configs: Path, tmp_path: Path
) -> None:
    scaled, plain = tmp_path / "scaled.safetensors", tmp_path / "plain.safetensors"
    write_checkpoint(plain)
    weights = load_file(plain)
    reduced = dict(weights)
    for name, value in weights.items():
        if name.startswith(UNET) and name.endswith(".weight") and value.dim() == 2:
            scale = value.float().abs().max() / 448
            reduced[name] = (value.float() / scale).to(torch.float8_e4m3fn)
            reduced[name.replace("weight", "scale_weight")] = scale
            weights[name] = reduced[name].float() * scale
    save_file({**reduced, f"{UNET}scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}, scaled)
    save_file(weights, plain)
    found, expected = (load_model(file)[0].pipeline.unet.state_dict() for file in (scaled, plain))
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    name = f"{UNET}input_blocks.1.1.proj_in"
    save_file({**reduced, f"{name}.weight_scale_2": torch.ones(())}, scaled)
    with pytest.raises(BadFile, match=rf"can't restore: {name}\.weight_scale_2"):
        load_model(scaled)


@pytest.mark.parametrize(
    "name",
    [f"{UNET}input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.bias",
     "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight"],
)  # fmt: skip
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_number_that_is_not_finite_is_refused_with_its_place_in_the_file(
    tiny_configs: Path, tmp_path: Path, name: str, value: float
) -> None:
    file = tmp_path / "tiny.safetensors"
    write_checkpoint(file)
    weights = load_file(file)
    weights[name].view(-1)[-1] = value
    save_file(weights, file)
    with pytest.raises(BadFile, match=rf"tiny\.safetensors: {name} holds numbers .* not finite"):
        load_model(file)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_float_numbers_are_named(
    tiny_configs: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    file = tmp_path / "tiny.safetensors"
    write_checkpoint(file)
    weights = load_file(file)
    name = f"{UNET}input_blocks.0.0.weight"
    save_file({**weights, name: weights[name].to(dtype)}, file)
    with pytest.raises(BadFile, match=f"{name} holds {dtype}, not float numbers"):
        load_model(file)


def test_a_text_encoder_under_transformers_names_is_read(
    tiny_configs: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.safetensors"
    write_checkpoint(file)
    expected = load_model(file)[0].text_encoder_weights()
    others = {k: v for k, v in load_file(file).items() if not k.startswith("cond_stage_model.")}
    own = {f"cond_stage_model.transformer.{k}": v.clone() for k, v in expected.items()}
    save_file({**others, **own}, file)
    found = load_model(file)[0].text_encoder_weights()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_stacked_projections_of_another_height_are_misshapen(
    tiny_configs: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tiny.safetensors"
    write_checkpoint(file)
    weights = load_file(file)
    name = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"
    for value in (torch.zeros(()), torch.zeros(1), torch.zeros(5, 64), torch.zeros(0, 64)):
        save_file({**weights, name: value}, file)
        with pytest.raises(BadFile, match="has misshapen weights"):
            load_model(file)


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".bin", ""])
def test_a_safetensors_file_under_another_ending_is_read(
    tiny_configs: Path, tmp_path: Path, ending: str
) -> None:
    write_checkpoint(tmp_path / f"model{ending}")
    assert load_model(tmp_path / f"model{ending}")[0].prediction == "epsilon"


def test_a_sidecar_of_blank_lines_is_read_at_once(tiny_configs: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny.safetensors")
    (tmp_path / "tiny.yaml").write_text("\n" * 1_000_000 + "parameterization: v\n", "utf-8")
    start = time.perf_counter()
    found, _ = single_file.SingleFile(tmp_path / "tiny.safetensors").guess_prediction()
    assert found == "v"
    assert time.perf_counter() - start < 20


def fake(path: Path, **shapes: tuple[int, ...]) -> Path:
    save_file({name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}, path)
    return path


def complete(in_channels: int = 4, width: int = 1024, **more: tuple[int, ...]) -> dict[str, Any]:
    return {
        f"{UNET}input_blocks.0.0.weight": (320, in_channels, 3, 3),
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, width),
        "first_stage_model.quant_conv.bias": (8,),
        "cond_stage_model.model.ln_final.bias": (1024,),
        **more,
    }


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        (complete(width=512), WrongModel, "text width is 512; a single file of .* has 1024"),
        (complete(9), WrongModel, "an inpainting model: its UNet takes 9 channels"),
        (complete(5), WrongModel, "a depth model"),
        (complete(8), WrongModel, "an editing model"),
        (complete(7), WrongModel, "an upscaler"),
        (complete(**{TABLE: (49408, 768)}), WrongModel, "768 wide and its UNet expects 1024"),
        (complete(width=1280), WrongModel, "SDXL's refiner"),
        (
            complete(width=1280, **{f"{UNET}label_emb.0.0.weight": (1536, 2560)}),
            WrongModel,
            "SDXL's refiner: it lacks the first text encoder",
        ),
        (complete(**{f"{UNET}label_emb.0.0.weight": (1,)}), WrongModel, "other conditions.*unCLIP"),
        (complete(**{f"{UNET}joint_blocks.0.x": (1,)}), WrongModel, "this is Stable Diffusion 3"),
        (complete(**{f"{UNET}double_blocks.0.x": (1,)}), WrongModel, "this is Flux"),
        (complete(edm_mean=(4,)), WrongModel, "this is Playground v2.5"),
        (complete(**{"edm_vpred.sigma_max": ()}), WrongModel, "another kind of noise.*CosXL"),
        (complete(**{f"{SECOND}ln_final.bias": (1280,)}), WrongModel, "no pooled vector"),
        (
            complete(
                width=2048,
                **{
                    f"{UNET}label_emb.0.0.weight": (1280, 2816),
                    f"{SECOND}x": (1,),
                    f"{SECOND}token_embedding.weight": (49408, 1280),
                    "cond_stage_model.model.token_embedding.weight": (49408, 1024),
                },
            ),
            WrongModel,
            "together are 2304 wide and its UNet expects 2048",
        ),
        ({"lora_te_x.lora_up.weight": (1,)}, BadFile, "no complete checkpoint.*UNet"),
        ({f"{UNET}out.0.weight": (1,)}, BadFile, "no complete checkpoint.*VAE"),
        (
            {f"{UNET}out.0.weight": (1,), "first_stage_model.quant_conv.bias": (8,)},
            BadFile,
            "0 of 1 text encoders",
        ),
        (complete(), BadFile, r"lacks \d+ weights"),
    ],
)
def test_another_kind_of_single_file_is_refused(
    tmp_path: Path, shapes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_model(fake(tmp_path / "file.safetensors", **shapes))


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".bin", ".safetensors"])
def test_a_pickle_is_refused_unopened(tmp_path: Path, ending: str) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / f"model{ending}")
    with pytest.raises(BadFile, match=r"pickle.*convert it"):
        load_model(tmp_path / f"model{ending}")


def test_missing_truncated_and_foreign_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match='There is no "nowhere"'):
        load_model("nowhere")
    file = fake(tmp_path / "file.safetensors", **complete())
    file.write_bytes(file.read_bytes()[:-64])
    with pytest.raises(BadFile, match="not a whole safetensors file"):
        load_model(file)
    file.write_bytes(b"")
    with pytest.raises(BadFile, match="not a whole safetensors file"):
        load_model(file)
    file.write_bytes(b"hello, I am a text" * 10)
    with pytest.raises(BadFile, match="not a whole safetensors file"):
        load_model(file)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_and_a_device_are_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", Path("/dev/zero")):
        with pytest.raises(BadFile, match="no regular file"):
            load_model(path)


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "a\0b"])
def test_a_name_that_the_system_refuses_is_one_short_line(name: str) -> None:
    with pytest.raises(BadFile, match="can't be read") as caught:
        load_model(name)
    assert len(str(caught.value)) < 400


@pytest.mark.slow
def test_a_full_size_single_file_loads_offline(tmp_path: Path) -> None:
    file = tmp_path / "sd2.safetensors"
    write_checkpoint(file, "v")
    model, line = load_model(file)
    assert (model.prediction, model.native_size, model.conditioning_layers) == ("v", 768, (22,))
    assert "guessed" in line
    text = torch.randn(1, 77, 1024, requires_grad=True)
    output = model.predict(torch.randn(1, 4, 16, 16), torch.tensor([500]), Conditioning(text))
    output.sum().backward()
    assert bool(output.isfinite().all())
    assert text.grad is not None
    assert bool(text.grad.any())
