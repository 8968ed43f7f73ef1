"""float8 weights with scales: known forms give the plain weights, others are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unlearn_core.errors import BadFile
from unlearn_core.loaders.model_files import scales_beside, unscaled

PLAIN = torch.tensor([[0.5, -1.0], [2.0, 3.0], [4.0, -8.0]])
WHERE = Path("m.safetensors")


def note(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize(
    ("scales", "factor"),
    [
        ({}, None),
        ({"a.scale_weight": torch.tensor(0.25)}, 0.25),
        ({"a.weight_scale": torch.tensor([0.25])}, 0.25),
        ({"a.scale_weight": torch.tensor(2.0), "a.scale_input": torch.tensor(9.0)}, 2.0),
        ({"a.weight_scale": torch.tensor([1.0, 2.0, 4.0])}, torch.tensor([[1.0], [2.0], [4.0]])),
        ({"a.weight_scale": torch.tensor([[1.0], [2.0], [4.0]])}, torch.tensor([[1], [2], [4]])),
        (
            {
                "a.weight_scale": torch.tensor(0.5),
                "a.comfy_quant": note('{"format": "float8_e4m3fn"}'),
                "a.input_scale": torch.tensor(3.0),
                "scaled_fp8": torch.zeros(0),
            },
            0.5,
        ),
    ],
)
def test_scales_are_multiplied_in(
    kind: torch.dtype, scales: dict[str, Tensor], factor: float | Tensor | None
) -> None:
    stored = {"a.weight": PLAIN.to(kind), "a.bias": torch.ones(3), **scales}
    weights = unscaled(WHERE, stored)
    assert weights.keys() == {"a.weight", "a.bias"}
    expected = PLAIN.to(kind).float()
    assert torch.equal(
        weights["a.weight"].float(), expected if factor is None else expected * factor
    )


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("a.weight_scale", torch.ones(2, 2)),
        ("a.weight_scale", torch.ones(2)),
        ("a.weight_scale", torch.ones(3, dtype=torch.int32)),
        ("a.weight_scale_2", torch.ones(())),
        ("a.weight_scale_inv", torch.ones(1, 1)),
        ("a.absmax", torch.ones(3)),
        ("a.comfy_quant", note('{"format": "nvfp4"}')),
        ("a.comfy_quant", note('{"format": "float8_e4m3fn", "convrot": true}')),
        ("a.comfy_quant", note("[" * 100_000)),
        ("a.comfy_quant", torch.tensor([1.5])),
        ("b.weight_scale", torch.ones(())),
    ],
)
def test_what_is_not_known_is_refused_by_name(name: str, tensor: Tensor) -> None:
    with pytest.raises(BadFile, match=rf"can't restore: {name}"):
        unscaled(WHERE, {"a.weight": PLAIN.to(torch.float8_e4m3fn), name: tensor})


def test_a_scale_beside_a_weight_that_is_no_float8_is_refused() -> None:
    with pytest.raises(BadFile, match=r"a\.scale_weight"):
        unscaled(WHERE, {"a.weight": PLAIN, "a.scale_weight": torch.tensor(2.0)})


def test_only_what_stands_beside_a_wanted_weight_is_read_with_it() -> None:
    there = ["a.weight", "a.bias", "a.weight_scale", "a.b.weight_scale", "ab.weight_scale", "x"]
    assert scales_beside(["a.weight", "a.bias"], there) == ["a.weight_scale"]
