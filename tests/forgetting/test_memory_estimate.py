"""The estimate of memory, against hand-computed cases and against what autograd really keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from tiny_model import tower_of
from torch import Tensor

from unlearn_core.forgetting.memory_estimate import (
    COPYING,
    DRAWING,
    ENCODED_TOGETHER,
    FORGETTING,
    GAPS,
    LEARNING,
    MEASURED_TOGETHER,
    MEASURING,
    PROMPT_POSITIONS,
    TEXT_FROZEN,
    TEXT_TRAINED,
    TextSizes,
    UnetUse,
    Workload,
    estimate,
)
from unlearn_core.forgetting.prompt_plan import FEWEST_FORGET, FEWEST_KEEP
from unlearn_core.loaders.demo_model import load_demo_pipeline
from unlearn_core.loaders.diffusers_model import DiffusersModel
from unlearn_core.loaders.model_configs import published_configs
from unlearn_core.lora.encoder_lora import EncoderLora
from unlearn_core.lora.keys import MODULES, text_module, weight_name
from unlearn_core.models.families import SD2 as FULL_SIZE
from unlearn_core.models.unet_sizes import UnetSizes
from unlearn_core.settings import UnlearnSettings, preset
from unlearn_core.text.conditioning import Conditioning
from unlearn_core.text.token_trees import encode_all
from unlearn_core.text.tokenizer import CHUNK, VOCABULARY, token_ids
from unlearn_core.text.tower_encoder import TowerEncoder

ONE_LEVEL = UnetSizes((10,), (1,), 1, 8)
"""Residual blocks 10 -> 10, mid 10 -> 10 twice, up 20 -> 10 twice; transformers: 1, 1, 2."""
SD2 = UnetSizes.from_config(published_configs(FULL_SIZE)["unet"])
SD2_TEXT = TextSizes(49408, 1024, 4096, 23, half=True)


def test_one_level_by_hand() -> None:
    of_text = 2 * 10 * 77
    residual = 2 * 3 * (10 + 10) * 16 + 2 * 3 * (20 + 10) * 16  # all but the first
    transformers = (15 + 3 * 22) * 10 * 16 + 4 * of_text
    output = 3 * 10 * 16
    assert ONE_LEVEL.kept(4, 4, checkpointing=False) == residual + transformers + output
    inputs = 16 * (10 + 10 + 10 + 10 + 20 + 10 + 20 + 10)
    largest = 22 * 10 * 16 + of_text
    assert ONE_LEVEL.kept(4, 4, checkpointing=True) == inputs + largest + output
    assert ONE_LEVEL.working(4, 4) == 18 * 10 * 16
    assert ONE_LEVEL.drawing(4, 4) == (18 + 1 + 2) * 10 * 16
    converting = dataclasses.replace(ONE_LEVEL, converts=True)
    transformer = 20 * 100 + 2 * 10 * 8
    same, wider = 9 * 200, 9 * 300 + 200
    assert ONE_LEVEL.converted(False) == 0
    assert converting.converted(False) == 4 * transformer + 3 * same + 2 * wider
    assert converting.converted(True) == max(transformer, wider)


def test_the_copy_of_a_small_text_encoder_by_hand() -> None:
    text = TextSizes(vocabulary=923, width=10, inner=40, layers=2, half=True)
    assert text.projections == 4 * 100 + 2 * 400
    assert text.copy_bytes == 923 * 10 * 2 + 77 * 10 * 4 + 2 * 1200 * 2
    assert dataclasses.replace(text, half=False).copy_bytes == 1000 * 10 * 4 + 2 * 1200 * 4


def test_a_stage_holds_the_copy_and_its_own() -> None:
    use = UnetUse(ONE_LEVEL, 32, number_bytes=2, rows=4, drawn=6, checkpointing=False)
    settings = UnlearnSettings(inversion_batch=3)
    text = TextSizes(923, 10, 40, 2, half=False)
    stages = estimate([text], use, Workload(settings.replace(layers="last:1"), pictures=5))
    assert stages[COPYING] == int(GAPS * text.copy_bytes)
    vae = 1000 * 32 * 32
    assert stages[DRAWING] == int(GAPS * (text.copy_bytes + 2 * max(vae, 6 * 3360)))
    unseen = dataclasses.replace(use, pictures=False)
    assert unseen.drawing_bytes == 2 * 6 * 3360 < use.drawing_bytes
    unet = 2 * 3 * (ONE_LEVEL.kept(4, 4, False) + ONE_LEVEL.working(4, 4))
    learning = 2 * 3 * 77 * 10 * 10 * 4
    assert stages[LEARNING] == int(GAPS * (text.copy_bytes + learning + unet))
    without = estimate([text], None, Workload(settings.replace(layers="last:1")))
    assert set(without) == {COPYING, FORGETTING}
    assert without[FORGETTING] == stages[FORGETTING]


def test_measuring_holds_a_picture_or_prompts_and_what_the_lora_changes_in_full() -> None:
    use = UnetUse(ONE_LEVEL, 32, number_bytes=2, rows=4, drawn=6, checkpointing=False)
    work = Workload(UnlearnSettings(layers="last:1"), measures=True)
    text = TextSizes(923, 10, 40, 2, half=True)
    picture = 2 * max(1000 * 32 * 32, MEASURED_TOGETHER * 3360)
    prompts = ENCODED_TOGETHER * 77 * (4 * 10 + 2 * 40) * 4
    held = text.copy_bytes + text.projections * 4
    assert picture > prompts
    assert estimate([text], use, work)[MEASURING] == int(GAPS * (held + picture))
    assert estimate([text], None, work)[MEASURING] == int(GAPS * (held + prompts))


def test_deep_transformers_are_read_alike_and_counted() -> None:
    config = {
        "block_out_channels": (320, 640, 1280), "layers_per_block": 2, "cross_attention_dim": 2048,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "transformer_layers_per_block": [1, 2, 10],
    }  # fmt: skip
    sizes = UnetSizes.from_config(config)
    assert (sizes.depths, sizes.middle) == ((0, 2, 10), 10)
    shapes, number = {"input_blocks.0.0.weight": (320, 4, 3, 3)}, 1
    for level, (width, depth) in enumerate(zip((320, 640, 1280), (0, 2, 10), strict=True)):
        for _ in range(2):
            shapes[f"input_blocks.{number}.0.in_layers.2.weight"] = (width, 99, 3, 3)
            for place in range(depth):
                name = f"input_blocks.{number}.1.transformer_blocks.{place}.attn2.to_k.weight"
                shapes[name] = (width, 2048)
            number += 1
        number += level < 2
    for place in range(10):
        shapes[f"middle_block.1.transformer_blocks.{place}.attn2.to_k.weight"] = (1280, 2048)
    assert UnetSizes.from_ldm(shapes) == sizes
    shallow = UnetSizes.from_config(config | {"transformer_layers_per_block": 1})
    assert sizes.kept(128, 128, False) > 2 * shallow.kept(128, 128, False)


def test_widths_are_read_alike_from_a_config_and_from_weights() -> None:
    shapes = {"input_blocks.0.0.weight": (320, 4, 3, 3), "out.2.weight": (4, 320, 3, 3)}
    number = 1
    for level, width in enumerate((320, 640, 1280, 1280)):
        for _ in range(2):
            block = f"input_blocks.{number}"
            shapes[f"{block}.0.in_layers.2.weight"] = (width, 99, 3, 3)
            if level < 3:
                shapes[f"{block}.1.transformer_blocks.0.attn2.to_k.weight"] = (width, 1024)
            number += 1
        if level < 3:
            shapes[f"input_blocks.{number}.0.op.weight"] = (width, width, 3, 3)
            number += 1
    shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"] = (1280, 1024)
    assert UnetSizes.from_ldm(shapes) == SD2
    assert UnetSizes.from_ldm({"double_blocks.0.img_attn.qkv.weight": (9, 3)}) is None


def test_sd2_has_the_weights_and_needs_the_bytes_that_were_counted() -> None:
    weights = dataclasses.replace(SD2, converts=True).converted(False)
    assert weights == pytest.approx(866e6, rel=0.1)
    assert SD2_TEXT.copy_bytes == pytest.approx(682e6, rel=0.01)
    smaller = [SD2.kept(edge, edge, True) / SD2.kept(edge, edge, False) for edge in (64, 96)]
    assert all(0.1 < share < 0.3 for share in smaller)


@pytest.mark.parametrize("name", ["quick", "balanced", "robust", "paper"])
def test_more_pictures_at_once_never_need_less(name: str) -> None:
    def needed(rows: int, checkpointing: bool) -> int:
        use = UnetUse(SD2, 768, 2, rows, 1, checkpointing)
        return max(estimate([SD2_TEXT], use, Workload(preset(name), 5)).values())

    plain = [needed(rows, False) for rows in (1, 2, 4, 8)]
    again = [needed(rows, True) for rows in (1, 2, 4, 8)]
    assert plain == sorted(plain)
    assert again == sorted(again)
    assert all(less <= more for less, more in zip(again, plain, strict=True))


def test_each_further_concept_adds_its_prompts_and_without_steps_only_those_to_keep() -> None:
    def added(few: int, many: int, steps: int) -> float:
        settings = preset("quick", steps=steps)
        held = [
            estimate([SD2_TEXT], None, Workload(settings, concepts=k))[FORGETTING]
            for k in (few, many)
        ]
        return (held[1] - held[0]) / (many - few) / (GAPS * PROMPT_POSITIONS * 1024 * 4)

    assert added(4, 8, steps=0) == pytest.approx(2 * FEWEST_KEEP, rel=1e-3)
    assert added(4, 8, steps=1) == pytest.approx(2 * FEWEST_KEEP + 3 * FEWEST_FORGET, rel=1e-3)
    # Of very many the variances of what is kept take more than the least squares do.
    assert added(50, 90, steps=0) == pytest.approx(4 * FEWEST_KEEP, rel=1e-3)


def kept_bytes(model: DiffusersModel, batch: int) -> int:
    """What autograd keeps of one prediction beside the weights."""
    unet = model.pipeline.unet
    own = {weight.untyped_storage().data_ptr() for weight in unet.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    generator = torch.Generator().manual_seed(1)
    text = torch.randn(batch, 77, 192, generator=generator).requires_grad_(True)
    latents = torch.randn(batch, 4, 8, 8, generator=generator)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.predict(latents, torch.full((batch,), 500), Conditioning(text))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def gradient_at_text(model: DiffusersModel) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    text = torch.randn(2, 77, 192, generator=generator).requires_grad_(True)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    model.predict(latents, torch.tensor([200, 700]), Conditioning(text)).square().mean().backward()
    assert text.grad is not None
    return text.grad


@pytest.fixture(scope="module")
def demo() -> DiffusersModel:
    return DiffusersModel(load_demo_pipeline(), torch.float32)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_the_demo_model_keeps_what_is_estimated(demo: DiffusersModel, batch: int) -> None:
    assert demo.unet_sizes is not None
    counted = kept_bytes(demo, batch)
    expected = 4 * batch * demo.unet_sizes.kept(8, 8, checkpointing=False)
    assert expected == pytest.approx(counted, rel=0.2)


def test_no_second_unet_is_held_for_the_way_back(demo: DiffusersModel) -> None:
    """The bytes of one picture grow with the pictures; a copy of the weights would not."""
    counted = [kept_bytes(demo, batch) for batch in (2, 4)]
    weights = sum(p.numel() * p.element_size() for p in demo.pipeline.unet.parameters())
    constant = 2 * counted[0] - counted[1]
    assert abs(constant) < weights / 50


def test_weights_cast_call_by_call_are_held_and_counted(demo: DiffusersModel) -> None:
    model = DiffusersModel(demo.pipeline, torch.bfloat16)
    assert model.unet_sizes is not None
    expected = 2 * (2 * model.unet_sizes.kept(8, 8, False) + model.unet_sizes.converted(False))
    assert expected == pytest.approx(kept_bytes(model, 2), rel=0.2)


def test_half_weights_are_computed_in_as_they_are() -> None:
    """As on a GPU; on a CPU such a pipeline is refused, so its weights become half afterwards."""
    model = DiffusersModel(load_demo_pipeline(), torch.bfloat16)
    cast = gradient_at_text(model)
    model.pipeline.unet.to(torch.bfloat16)
    model.pipeline.vae.to(torch.bfloat16)
    plain = gradient_at_text(model)
    assert float((plain - cast).norm() / cast.norm()) < 0.1
    assert model.unet_sizes is not None
    expected = 2 * 2 * model.unet_sizes.kept(8, 8, checkpointing=False)
    assert expected == pytest.approx(kept_bytes(model, 2), rel=0.2)
    pixels = torch.zeros(2, 3, 64, 64)
    assert model.decode_latents(model.encode_image(pixels)).dtype == torch.float32


WIDTH, INNER, LAYERS = 256, 1024, 3


def text_weights(dtype: torch.dtype) -> dict[str, Tensor]:
    """Of a tower with SD2's proportions."""
    name = "text_model.embeddings."
    weights = {
        f"{name}token_embedding.weight": torch.zeros(VOCABULARY, WIDTH),
        f"{name}position_embedding.weight": torch.zeros(CHUNK, WIDTH),
    }
    for layer in range(LAYERS):
        name = f"text_model.encoder.layers.{layer}."
        for key in (text_module(layer, module) for module in MODULES):
            wide = {"fc1": (INNER, WIDTH), "fc2": (WIDTH, INNER)}.get(key.module, (WIDTH, WIDTH))
            weights[weight_name(key)] = torch.full(wide, 0.01)
            weights[weight_name(key).replace("weight", "bias")] = torch.zeros(wide[0])
        for norm in ("layer_norm1", "layer_norm2"):
            weights[f"{name}{norm}.weight"] = torch.ones(WIDTH)
            weights[f"{name}{norm}.bias"] = torch.zeros(WIDTH)
    weights["text_model.final_layer_norm.weight"] = torch.ones(WIDTH)
    weights["text_model.final_layer_norm.bias"] = torch.zeros(WIDTH)
    return {name: weight.to(dtype) for name, weight in weights.items()}


def kept_of(tower: TowerEncoder, run: Callable[[], Tensor]) -> int:
    own = {weight.untyped_storage().data_ptr() for weight in tower.model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_text_layers_keep_what_is_estimated(dtype: torch.dtype) -> None:
    tower = tower_of(text_weights(dtype), LAYERS - 1)
    ids = token_ids("a photo of a dog").repeat(8, 1)
    learned = torch.zeros(1, WIDTH).requires_grad_(True)
    ids[:, 3] = VOCABULARY
    positions = ids.numel() * LAYERS * WIDTH * 4
    cast = LAYERS * (4 * WIDTH**2 + 2 * WIDTH * INNER) * 4 * (dtype == torch.float16)
    kept = kept_of(tower, lambda: tower.encode(ids, learned))
    assert TEXT_FROZEN * positions + cast == pytest.approx(kept, rel=0.1)
    modules = [text_module(layer, module) for layer in range(LAYERS) for module in MODULES]
    lora = EncoderLora(tower, modules, 8, torch.Generator().manual_seed(0))
    states, _ = encode_all(tower, token_ids("a photo of a dog").repeat(8, 1))
    kept = kept_of(tower, lambda: tower.tail(states))
    lora.detach()
    assert TEXT_TRAINED * positions + cast == pytest.approx(kept, rel=0.1)
