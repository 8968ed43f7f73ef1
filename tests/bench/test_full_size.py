"""The bench at full size: its arithmetic, and runs on three layers and on a small UNet."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import bench.cost.machine
from bench.cost.full_size import as_text, capped, measure, save_plot, text_only
from bench.cost.machine import Machine, Rates, device_name, measure_machine
from bench.cost.measured_run import BETWEEN, Stage
from bench.cost.on_gpu import profiled
from bench.cost.products import ProductCounter
from bench.cost.random_model import Host, RandomModel, RandomTextModel, random_pictures
from bench.protocol.cost import CPU, MemoryGauge
from unlearn_core.errors import BadSettings
from unlearn_core.loaders.pipeline_parts import empty_parts
from unlearn_core.models.devices import give_memory_back
from unlearn_core.progress import READING_PICTURES
from unlearn_core.settings import preset
from unlearn_core.text.conditioning import Conditioning

SHORT = "quick:steps=1+layers=last:1+forget_prompts=8+keep_prompts=8"
SHORT_WITH_UNET = "balanced:steps=1+inversion_steps=1+inversion_batch=2+stand_in_pictures=1"
SHORT_WITH_UNET += "+caption_styles=1+forget_prompts=8+keep_prompts=8"
CUDA = torch.device("cuda")
SMALL = {
    "unet": {
        "block_out_channels": [32, 64],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "attention_head_dim": [1, 2],
        "cross_attention_dim": 64,
    },
    "vae": {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1},
    "text_encoder": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 1,
        "num_hidden_layers": 3,
    },
}
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's rates, measured on little."""
    monkeypatch.setattr(bench.cost.machine, "MATMUL", 64)
    monkeypatch.setattr(bench.cost.machine, "CUDA_MATMUL", 64)
    monkeypatch.setattr(bench.cost.machine, "COPIED", 2**20)


def small(device: torch.device = CPU, **changes: Any) -> Host:
    """A host of a small SD2."""
    return Host(device, **{"size": 64, "changes": SMALL, **changes})


def test_the_floor_is_products_and_copies_at_the_machines_rates() -> None:
    wall = Rates({"float32": 100e9, "bfloat16": 400e9}, copied=10e9)
    processor = Rates({"float32": 50e9, "bfloat16": 200e9}, copied=5e9)
    flops = {"float32": 200_000_000_000, "bfloat16": 400_000_000_000}
    stage = Stage("any", 9.0, 18.0, flops, copied_bytes=5_000_000_000, extra_bytes=0)
    floor, processor_floor = stage.floors(Machine(wall, processor, threads=2))
    assert floor == pytest.approx(2.0 + 1.0 + 0.5)
    assert processor_floor == pytest.approx(4.0 + 2.0 + 1.0)


def test_products_are_counted_by_the_dtype_that_they_multiply_in() -> None:
    wide, narrow = torch.ones(3, 4), torch.ones(4, 5, dtype=torch.bfloat16)
    total = torch.zeros(4, 4)
    with ProductCounter() as counter:
        wide @ narrow.float()
        narrow.T @ narrow
        total.addmm_(wide.T, wide)
    assert counter.flops == {
        "float32": 2 * 3 * 4 * 5 + 2 * 4 * 3 * 4, "bfloat16": 2 * 5 * 4 * 5
    }  # fmt: skip


@pytest.mark.parametrize("masked", [False, True])
def test_attention_and_its_gradient_are_counted_on_a_cpu_too(masked: bool) -> None:
    query = torch.ones(2, 1, 6, 8, requires_grad=True)
    mask = torch.zeros(2, 1, 6, 6) if masked else None
    with ProductCounter() as counter:
        output = torch.nn.functional.scaled_dot_product_attention(query, query, query, mask)
    forward = 2 * 2 * (2 * 6 * 6 * 8)  # two products of two prompts
    assert counter.flops["float32"] == forward
    with ProductCounter() as counter:
        output.sum().backward()
    assert counter.flops["float32"] >= 2 * forward


def test_a_convolution_and_its_gradient_are_counted() -> None:
    picture, weight = torch.ones(2, 3, 8, 8, requires_grad=True), torch.ones(5, 3, 3, 3)
    forward = 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)  # multiply and add; numbers out; numbers in each
    with ProductCounter() as counter:
        output = torch.nn.functional.conv2d(picture, weight, torch.ones(5), padding=1)
    assert counter.flops == {"float32": forward}
    with ProductCounter() as counter:
        output.sum().backward()
    assert counter.flops == {"float32": forward}


def test_under_autocast_the_dtype_is_the_one_that_is_cast_to() -> None:
    picture, weight = torch.ones(1, 3, 8, 8), torch.ones(5, 3, 1, 1)
    with ProductCounter() as counter, torch.autocast("cpu", torch.bfloat16):
        torch.nn.functional.conv2d(picture, weight, torch.ones(5))
        torch.nn.functional.linear(picture, torch.ones(5, 8), torch.ones(5))
    assert counter.flops == {"bfloat16": 2 * 5 * 8 * 8 * 3 + 2 * 3 * 8 * 5 * 8}


@on_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_on_cuda_is_counted_by_its_dtype(dtype: torch.dtype, masked: bool) -> None:
    query = torch.ones(2, 1, 64, 64, device=CUDA, dtype=dtype, requires_grad=True)
    mask = torch.zeros(2, 1, 64, 64, device=CUDA, dtype=dtype) if masked else None
    with ProductCounter() as counter:
        output = torch.nn.functional.scaled_dot_product_attention(query, query, query, mask)
    forward = 2 * 2 * (2 * 64 * 64 * 64)
    name = str(dtype).removeprefix("torch.")
    assert counter.flops == {name: forward}
    with ProductCounter() as counter:
        output.sum().backward()
    assert counter.flops.keys() == {name}
    assert counter.flops[name] >= 2 * forward


@pytest.mark.parametrize("device", [CPU, pytest.param(CUDA, marks=on_cuda)])
@pytest.mark.usefixtures("quick_clock")
def test_this_machine_has_a_rate_for_every_dtype(device: torch.device) -> None:
    machine = measure_machine(device)
    for rates in (machine.wall, machine.processor):
        assert rates.products.keys() == {"float64", "float32", "bfloat16", "float16"}
        assert min(*rates.products.values(), rates.copied) > 0
    assert device_name(device)


@pytest.mark.parametrize("device", [CPU, pytest.param(CUDA, marks=on_cuda)])
def test_memory_is_the_most_since_the_last_look(device: torch.device) -> None:
    gauge = MemoryGauge(device)
    held = torch.ones(2**26, dtype=torch.uint8, device=device)
    assert gauge.look() >= 2**26
    gauge.look()
    del held
    give_memory_back()  # a hole that glibc had in its heap would stay resident
    gauge.look()
    assert gauge.look() < 2**25
    gauge.close()


def test_the_random_tower_has_the_shape_of_sd2() -> None:
    model = RandomTextModel(Host(layers=3))
    weights = model.text_encoder_weights()
    assert model.conditioning_layers == (1,)
    assert weights["text_model.embeddings.token_embedding.weight"].shape == (49408, 1024)
    assert weights["text_model.encoder.layers.2.mlp.fc1.weight"].shape == (4096, 1024)
    assert weights["text_model.final_layer_norm.weight"].float().mean() == pytest.approx(1, abs=0.1)
    assert {value.dtype for value in weights.values()} == {torch.float16}


def test_the_random_model_is_sd2_in_small() -> None:
    model, again = RandomModel(small()), RandomModel(small())
    assert (model.native_size, model.prediction, model.conditioning_layers) == (64, "epsilon", (2,))
    unet = model.pipeline.unet.state_dict()
    assert model.unet_bytes == 4 * sum(value.numel() for value in unet.values())
    assert all(torch.equal(unet[n], v) for n, v in again.pipeline.unet.state_dict().items())
    assert unet["conv_norm_out.weight"].mean() == pytest.approx(1, abs=0.1)
    assert unet["conv_in.weight"].std() == pytest.approx(0.02, rel=0.1)
    weights = model.text_encoder_weights()
    assert {value.dtype for value in weights.values()} == {torch.float16}
    large = RandomModel(small(size=768))
    assert (large.native_size, large.prediction) == (768, "v")


def test_sd2s_unet_has_866_million_weights() -> None:
    configs = Host().configs
    unet, vae, text = empty_parts(*(configs[p] for p in ("unet", "vae", "text_encoder")))
    millions = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (unet, vae, text)]
    assert millions == pytest.approx([865.9, 83.7, 340.4], abs=0.1)


@pytest.mark.parametrize(
    "host",
    [
        small(dtype=torch.float32),
        small(dtype=torch.bfloat16),
        small(dtype=torch.float16),
        pytest.param(small(CUDA, dtype=torch.float16), marks=on_cuda),
        pytest.param(small(CUDA, dtype=torch.bfloat16), marks=on_cuda),
    ],
)
def test_predictions_and_their_gradients_are_finite(host: Host) -> None:
    model = RandomModel(host)
    latents = model.encode_image(random_pictures(64, 2, seed=0)[0][None])
    text = torch.ones(1, 77, 64, device=host.device, requires_grad=True)
    output = model.predict(latents, torch.tensor([500]), Conditioning(text))
    output.pow(2).mean().backward()
    assert text.grad is not None
    for tensor in (latents, output, text.grad):
        assert bool(tensor.isfinite().all())
        assert bool(tensor.any())


def test_the_products_of_the_unet_are_counted() -> None:
    """Against a count by its layers: convolutions, linears, and two attentions in each block."""
    model = RandomModel(small(dtype=torch.float32))
    by_hand = Counter[str]()

    def look(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        inner = layer.weight[0].numel()
        by_hand[type(layer).__name__] += 2 * output.numel() * inner

    layers = [
        p for p in model.pipeline.unet.modules() if hasattr(p, "weight") and p.weight.dim() > 1
    ]
    for layer in layers:
        layer.register_forward_hook(look)
    latents, text = torch.ones(1, 4, 8, 8), Conditioning(torch.ones(1, 77, 64))
    with ProductCounter() as counter:
        model.predict(latents, torch.tensor([500]), text)
    # Three blocks of 32 channels on 8 x 8 pixels, the middle one of 64 on 4 x 4.
    attended = sum(
        2 * 2 * channels * pixels * (pixels + 77)
        for channels, pixels in ((32, 64), (32, 64), (32, 64), (64, 16))
    )
    assert by_hand["Conv2d"] > 0
    assert counter.flops == {"float32": by_hand.total() + attended}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"use_pictures": True}, False),
        ({"use_pictures": True, "inversion_steps": 0, "stand_in_pictures": 0}, True),
        ({"stand_in_pictures": 16, "steps": 1}, True),
        ({"stand_in_pictures": 16, "steps": 1, "closed_form": False}, False),
    ],
)
def test_which_settings_never_ask_for_the_unet(changes: dict, expected: bool) -> None:
    assert text_only(preset("quick", **changes), torch.device("cpu")) is expected


def test_a_gpu_draws_the_stand_in_of_quick_too() -> None:
    assert not text_only(preset("quick"), torch.device("cuda"))
    assert text_only(preset("quick", stand_in_pictures=0), torch.device("cuda"))


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (Host(size=100), "multiple of 64"),
        (Host(memory_cap=10**10), "CUDA"),
        pytest.param(
            Host(CUDA),
            "no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
        pytest.param(Host(CUDA, memory_cap=10**15), "the device has", marks=on_cuda),
    ],
)
def test_what_cannot_be_lent_here_is_refused(host: Host, message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        measure("balanced", "dog", host)


@pytest.mark.usefixtures("quick_clock")
@pytest.mark.parametrize(
    "host",
    [
        small(dtype=torch.float32),
        pytest.param(small(CUDA, dtype=torch.bfloat16, memory_cap=2 * 10**9), marks=on_cuda),
        pytest.param(small(CUDA, dtype=torch.float16), marks=on_cuda),
    ],
)
def test_a_preset_with_a_unet_runs(host: Host) -> None:
    numbers = measure(SHORT_WITH_UNET, "dog", host)
    model = RandomModel(host)
    assert numbers["unet_bytes"] == model.unet_bytes
    stages = {stage["name"]: stage for stage in numbers["stages"]}
    with ProductCounter() as counter, torch.no_grad():
        text = Conditioning(torch.ones(1, 77, 64))
        model.predict(torch.ones(1, 4, 8, 8), torch.tensor([5]), text)
    own = numbers["dtype of the UNet's products"]
    for stage, rows in (("choosing the stand-in", 30), ("learning the concept", 300)):
        assert stages[stage]["flops"][own] >= rows * counter.flops[own]
    report = numbers["memory_report"]
    assert report["used"] == numbers["extra_bytes"] > 0
    assert report["plan"]["needed"] > 0
    assert numbers["seconds"] == pytest.approx(sum(s["seconds"] for s in stages.values()))
    assert json.loads(json.dumps(numbers)) == numbers
    assert f"= {numbers['extra_bytes'] / numbers['unet_bytes']:.2f}" in as_text(numbers)


@pytest.mark.usefixtures("quick_clock")
def test_pictures_are_counted_where_no_vectors_are_learned_from_them() -> None:
    numbers = measure(
        "paper:steps=1+forget_prompts=8+keep_prompts=8", "dog", small(dtype=torch.float32)
    )
    stages = {stage["name"]: stage for stage in numbers["stages"]}
    assert stages[READING_PICTURES]["flops"]["float32"] > 1e7
    assert numbers["stages"][-1]["name"] == BETWEEN


@on_cuda
def test_the_allocator_refuses_more_than_the_cap() -> None:
    host = small(CUDA, memory_cap=2**30)
    free = RandomModel(host).free_memory()
    assert free is not None
    assert free <= 2**30
    with capped(host), pytest.raises(torch.cuda.OutOfMemoryError):
        torch.empty(2**31, dtype=torch.uint8, device=CUDA)
    assert torch.empty(2**31, dtype=torch.uint8, device=CUDA).is_cuda


@pytest.mark.usefixtures("quick_clock")
def test_a_run_is_counted_stage_by_stage(tmp_path: Path) -> None:
    numbers = measure(SHORT, "dog", Host(layers=3))
    stages = {stage["name"]: stage for stage in numbers["stages"]}
    assert stages["preparing the prompts"]["flops"][numbers["dtype of most products"]] > 1e9
    assert stages["forgetting"]["flops"][numbers["dtype of most products"]] > 1e9
    assert stages["least squares"]["flops"]["float32"] > 1e9
    assert stages["copying the text encoder"]["copied_bytes"] > 2 * 49408 * 1024
    assert stages["copying the text encoder"]["extra_bytes"] > 2 * 49408 * 1024
    assert numbers["seconds"] == pytest.approx(sum(s["seconds"] for s in stages.values()))
    floors = sum(stage["floor_seconds"] for stage in stages.values())
    assert numbers["floor_seconds"] == pytest.approx(floors)
    assert numbers["extra_bytes"] >= stages["copying the text encoder"]["extra_bytes"]
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers["unet_bytes"] is None
    assert "preparing the prompts" in as_text(numbers)
    save_plot(numbers, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_the_profile_names_the_operations() -> None:
    assert "aten::addmm" in profiled(SHORT_WITH_UNET, small(dtype=torch.float32))
