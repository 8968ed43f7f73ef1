"""SD1, SD2, SD-Turbo and SDXL from single files and diffusers folders: equal tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.cost.full_size_checkpoint import write_checkpoint
from unlearn_core.errors import BadFile, WrongModel
from unlearn_core.loaders.diffusers_model import DiffusersModel, load_model
from unlearn_core.loaders.model_configs import LEAST_ALPHA
from unlearn_core.models.families import FAMILIES, SD1, SD2, SDXL, Family
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.text.conditioning import Conditioning
from unlearn_core.text.tokenizer import token_ids

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
LAYERS = {"sd1": (2,), "sd2": (2,), "sdxl": (1, 1)}
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.key)
pytestmark = pytest.mark.usefixtures("tiny_configs")


def written(path: Path, family: Family, dtype: torch.dtype = torch.half) -> Path:
    write_checkpoint(path, dtype=dtype, family=family)
    return path


def renamed(path: Path, old: str, new: str) -> Path:
    """The same file with another beginning of some names."""
    weights = {name.replace(old, new): value for name, value in load_file(path).items()}
    save_file(weights, path)
    return path


def with_tensors(path: Path, *names: str) -> Path:
    """The same file with empty tensors that say something by being there."""
    save_file({**load_file(path), **{name: torch.zeros(0) for name in names}}, path)
    return path


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def states(pipeline: Any) -> dict[str, torch.Tensor]:
    parts = {part: getattr(pipeline, part, None) for part in PARTS}
    return {
        f"{part}.{name.removeprefix('text_model.')}": value
        for part, module in parts.items()
        if module is not None
        for name, value in module.state_dict().items()
        if "position_ids" not in name
    }


def assert_same(found: Any, expected: Any) -> None:
    own, theirs = states(found), states(expected)
    assert own.keys() == theirs.keys()
    for name, value in own.items():
        assert torch.equal(value, theirs[name].to(value.dtype)), name


def text_of(model: DiffusersModel, seed: int = 1) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    return model.ramp().map(lambda tensor: torch.randn(tensor.shape, generator=generator))


@EVERY_FAMILY
@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.float32], ids=str)
def test_a_single_file_of_each_family_loads(
    tmp_path: Path, family: Family, dtype: torch.dtype
) -> None:
    model, line = load_model(written(tmp_path / "m.safetensors", family, dtype))
    assert model.family is family
    assert model.conditioning_layers == LAYERS[family.key]
    assert (model.prediction, model.is_distilled) == ("epsilon", False)
    assert model.native_size == {"sd1": 512, "sd2": 512, "sdxl": 1024}[family.key]
    assert model.pipeline.vae.config.scaling_factor == family.vae_scale
    assert line.startswith("prediction: epsilon (guessed: ")
    torch.testing.assert_close(model.alphas_cumprod, family.alphas_cumprod())
    weights = model.text_encoder_weights()
    begins = {tuple(name.split(".")[:2]) for name in weights if name.startswith("te")}
    if family is SDXL:
        assert {first for first, _ in begins} == {"te1", "te2"}
        assert {second for _, second in begins} == {"text_model", "text_projection"}
    else:
        assert {first for first, _ in begins} == {"text_model"}
    output = model.predict(
        torch.randn(2, 4, 16, 16), torch.tensor([5, 900]), text_of(model)[[0, 0]]
    )
    assert bool(output.isfinite().all())


@EVERY_FAMILY
def test_a_single_file_reads_as_diffusers_reads_it(tmp_path: Path, family: Family) -> None:
    import diffusers

    file = written(tmp_path / "m.safetensors", family)
    model, _ = load_model(file)
    model.pipeline.save_pretrained(str(tmp_path / "saved"))  # only its configs are used
    try:
        theirs = type(model.pipeline).from_single_file(
            str(file), config=str(tmp_path / "saved"), local_files_only=True
        )
    except (TypeError, ValueError, OSError) as error:
        pytest.skip(f"diffusers {diffusers.__version__} loads single files otherwise: {error}")
    assert_same(model.pipeline, theirs)


@EVERY_FAMILY
def test_a_saved_folder_of_each_family_loads_to_the_same_weights(
    tmp_path: Path, family: Family
) -> None:
    first, _ = load_model(written(tmp_path / "m.safetensors", family))
    first.pipeline.save_pretrained(str(tmp_path / "saved"))
    again, line = load_model(tmp_path / "saved")
    assert line == "prediction: epsilon (its scheduler_config.json says so)"
    assert_same(again.pipeline, first.pipeline)
    assert (again.family, again.native_size) == (family, first.native_size)
    assert again.conditioning_layers == first.conditioning_layers
    latents, steps = torch.randn(1, 4, 8, 8), torch.tensor([500])
    expected = first.predict(latents, steps, text_of(first))
    assert torch.equal(again.predict(latents, steps, text_of(first)), expected)


def test_the_projection_is_turned_as_transformers_wants_it(tmp_path: Path) -> None:
    file = written(tmp_path / "m.safetensors", SDXL)
    stored = load_file(file)["conditioner.embedders.1.model.text_projection"].float()
    found = load_model(file)[0].text_encoder_weights()
    assert "te1.text_projection.weight" not in found
    assert torch.equal(found["te2.text_projection.weight"], stored.T)
    weights = load_file(file)
    name = "conditioner.embedders.1.model.text_projection"
    save_file({**weights, f"{name}.weight": weights.pop(name).T.contiguous()}, file)
    turned = load_model(file)[0].text_encoder_weights()
    assert torch.equal(turned["te2.text_projection.weight"], stored.T)


def test_sdxl_gets_the_pooled_vector_and_the_size_of_its_picture(tmp_path: Path) -> None:
    model, _ = load_model(written(tmp_path / "m.safetensors", SDXL))
    model = DiffusersModel(model.pipeline, torch.float32)
    latents, steps, text = torch.randn(2, 4, 8, 16), torch.tensor([3, 700]), text_of(model)[[0, 0]]
    added = {"text_embeds": text.pooled, "time_ids": torch.tensor([[64.0, 128, 0, 0, 64, 128]] * 2)}
    with torch.no_grad():
        expected = model.pipeline.unet(
            latents, steps, encoder_hidden_states=text.tokens, added_cond_kwargs=added
        ).sample
    torch.testing.assert_close(model.predict(latents, steps, text), expected)
    assert text.pooled is not None
    other = Conditioning(text.tokens, -text.pooled)
    assert not torch.equal(model.predict(latents, steps, other), expected)
    text.pooled.requires_grad_(True)
    model.predict(latents, steps, text).square().sum().backward()
    assert text.pooled.grad is not None
    assert bool(text.pooled.grad.any())


@pytest.mark.parametrize(
    "prefix", ["cond_stage_model.transformer.", "cond_stage_model.transformer.text_model."]
)
def test_sd1_text_encoders_are_read_with_and_without_text_model(
    tmp_path: Path, prefix: str
) -> None:
    expected, _ = load_model(written(tmp_path / "m.safetensors", SD1))
    file = written(tmp_path / "other.safetensors", SD1)
    renamed(file, "cond_stage_model.transformer.text_model.", prefix)
    assert_same(load_model(file)[0].pipeline, expected.pipeline)


def test_a_file_in_sd_turbos_layout_is_a_distilled_sd2(tmp_path: Path) -> None:
    expected, _ = load_model(written(tmp_path / "m.safetensors", SD2))
    file = written(tmp_path / "other.safetensors", SD2)
    renamed(file, "cond_stage_model.model.", "conditioner.embedders.0.model.")
    model, lines = load_model(file)
    assert (model.family, model.prediction, model.is_distilled) == (SD2, "epsilon", True)
    assert "note: a Turbo model: pictures are drawn in few steps" in lines
    assert_same(model.pipeline, expected.pipeline)


@pytest.mark.parametrize(
    ("name", "distilled"),
    [
        ("sd_xl_turbo_1.0_fp16", True), ("DreamShaperXL-Turbo", True),
        ("juggernaut_lightning", True), ("sdxl-base", False), ("turbocharged", False),
    ],
)  # fmt: skip
def test_a_turbo_model_of_sdxl_is_known_by_its_name(
    tmp_path: Path, name: str, distilled: bool
) -> None:
    model, lines = load_model(written(tmp_path / f"{name}.safetensors", SDXL))
    assert (model.is_distilled, "a Turbo model" in lines) == (distilled, distilled)


@pytest.mark.parametrize(
    ("changes", "distilled"),
    [
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, True),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}, False),
        ({"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}, False),
        ({"timestep_spacing": "trailing", "prediction_type": "v_prediction"}, False),
    ],
)
def test_a_folder_is_distilled_if_its_steps_are_trailing_as_in_sd_turbo(
    tmp_path: Path, changes: dict[str, Any], distilled: bool
) -> None:
    first, _ = load_model(written(tmp_path / "m.safetensors", SD2))
    first.pipeline.save_pretrained(str(tmp_path / "saved"))
    edit(tmp_path / "saved" / "scheduler" / "scheduler_config.json", **changes)
    model, lines = load_model(tmp_path / "saved")
    assert (model.is_distilled, "a Turbo model" in lines) == (distilled, distilled)


def zero_terminal(alphas: torch.Tensor) -> torch.Tensor:
    """Lin et al. 2023, arXiv 2305.08891, algorithm 1, in terms of alphas_cumprod."""
    root = alphas.double().sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


@pytest.mark.parametrize("key", ["v_pred", "ztsnr"])
def test_sdxl_files_say_by_a_tensor_that_they_predict_v(tmp_path: Path, key: str) -> None:
    file = with_tensors(written(tmp_path / "m.safetensors", SDXL), *{"v_pred", key})
    model, line = load_model(file)
    assert (model.prediction, model.native_size) == ("v", 1024)
    assert line == "prediction: v (the file's v_pred says so)"
    expected = SDXL.alphas_cumprod()
    if key == "ztsnr":
        expected = zero_terminal(expected).float()
        expected[-1] = LEAST_ALPHA
    torch.testing.assert_close(model.alphas_cumprod, expected, rtol=1e-4, atol=1e-6)
    assert float(model.alphas_cumprod[-1]) == pytest.approx(float(expected[-1]))
    assert bool((model.alphas_cumprod.diff() < 0).all())
    assert not model.is_distilled
    model.pipeline.save_pretrained(str(tmp_path / "saved"))
    again, _ = load_model(tmp_path / "saved")
    assert torch.equal(again.alphas_cumprod, model.alphas_cumprod)


def test_float16_is_too_small_for_the_vae_of_sdxl_alone(tmp_path: Path) -> None:
    for family in (SD2, SDXL):
        pipeline = load_model(written(tmp_path / "m.safetensors", family))[0].pipeline
        exact, half = (DiffusersModel(pipeline, dtype) for dtype in (torch.float32, torch.half))
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        pictures = [model.decode_latents(latents) for model in (exact, half)]
        assert torch.equal(*pictures) == (family is SDXL)


@EVERY_FAMILY
@pytest.mark.parametrize("part", ["first_stage_model.", "model.diffusion_model."])
def test_a_file_without_a_part_says_which(tmp_path: Path, family: Family, part: str) -> None:
    file = written(tmp_path / "m.safetensors", family)
    rest = {name: value for name, value in load_file(file).items() if not name.startswith(part)}
    save_file(rest, file)
    with pytest.raises(BadFile, match=r"none of them of a .*Give a full .* file"):
        load_model(file)


def test_a_file_without_one_of_two_text_encoders_is_incomplete(tmp_path: Path) -> None:
    file = written(tmp_path / "m.safetensors", SDXL)
    first = "conditioner.embedders.0."
    rest = {name: value for name, value in load_file(file).items() if not name.startswith(first)}
    save_file(rest, file)
    with pytest.raises(BadFile, match=r"1 of 2 text encoders\. Give a full SDXL file"):
        load_model(file)


def test_parts_of_a_folder_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first, _ = load_model(written(tmp_path / "m.safetensors", SDXL))
    folder = tmp_path / "saved"
    first.pipeline.save_pretrained(str(folder))
    unet, index = folder / "unet" / "config.json", folder / "model_index.json"
    for path, changes, message in (
        (unet, {"cross_attention_dim": 64}, "together are 192 wide and its UNet expects 64"),
        (unet, {"addition_embed_type": None}, "no pooled vector: these parts are of two models"),
        (unet, {"addition_time_embed_dim": 16}, r"unet/config\.json describes can't compute"),
        (index, {"text_encoder": [None, None]}, "SDXL's refiner"),
        (folder / "text_encoder" / "config.json", {"num_hidden_layers": 1}, "number from 2 to 100"),
        (folder / "text_encoder_2" / "config.json", {"hidden_act": "relu"}, "'relu', not gelu"),
    ):
        before = path.read_text("utf-8")
        edit(path, **changes)
        with pytest.raises(WrongModel, match=message):
            load_model(folder)
        path.write_text(before, "utf-8")


def test_lent_pipelines_of_other_families_are_refused(tmp_path: Path) -> None:
    pipeline: Any = load_model(written(tmp_path / "m.safetensors", SDXL))[0].pipeline

    class StableDiffusion3Pipeline:
        """Has a transformer."""

    with pytest.raises(WrongModel, match="this is a StableDiffusion3Pipeline"):
        DiffusersModel(StableDiffusion3Pipeline())
    second = pipeline.text_encoder_2
    second.text_model.encoder.layers[0].lora_A = torch.nn.Linear(1, 1)
    with pytest.raises(WrongModel, match="carries a LoRA"):
        DiffusersModel(pipeline)
    del second.text_model.encoder.layers[0].lora_A
    pipeline.text_encoder = None
    with pytest.raises(WrongModel, match="SDXL's refiner"):
        DiffusersModel(pipeline)


@EVERY_FAMILY
@pytest.mark.parametrize(
    "prompt", ["a photo of a cat", "", "cat, " * 30], ids=["short", "empty", "long"]
)
def test_the_text_is_what_the_pipeline_makes_of_it(
    tmp_path: Path, family: Family, prompt: str
) -> None:
    model, _ = load_model(written(tmp_path / "m.safetensors", family, torch.float32))
    pipeline: Any = model.pipeline
    found = build_encoder(model).condition(token_ids(prompt))
    theirs = pipeline.encode_prompt(
        prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    torch.testing.assert_close(found.tokens, theirs[0], rtol=1e-4, atol=1e-4)
    assert (found.pooled is None) == (family is not SDXL)
    if found.pooled is not None:
        torch.testing.assert_close(found.pooled, theirs[2], rtol=1e-4, atol=1e-4)
