"""The code of docs/writing-an-adapter.md, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_core.loaders.demo_model import load_demo_pipeline
from unlearn_core.loaders.diffusers_model import DiffusersModel
from unlearn_core.lora.file import load_lora
from unlearn_core.text.conditioning import Conditioning

MOST_LINES = 40


def blocks(root: Path) -> list[str]:
    page = (root / "docs" / "writing-an-adapter.md").read_text("utf-8")
    return re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def lent(root: Path) -> Any:
    names: dict[str, Any] = {}
    exec(blocks(root)[0], names)
    return names["MyModel"](load_demo_pipeline())


def test_the_pages_adapter_is_short(root: Path) -> None:
    lines = [line for line in blocks(root)[0].splitlines() if line.strip()]
    assert len(lines) <= MOST_LINES


def test_the_pages_adapter_lends_what_ours_does(lent: Any) -> None:
    ours = DiffusersModel(load_demo_pipeline(), torch.float32)
    assert (lent.native_size, lent.prediction) == (ours.native_size, ours.prediction)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    width = next(iter(lent.text_encoder_weights().values())).shape[-1]
    text = torch.randn(2, 77, width, generator=torch.Generator().manual_seed(1))
    gradients = []
    for model in (lent, ours):
        given = text.clone().requires_grad_(True)
        output = model.predict(latents, torch.tensor([900, 20]), Conditioning(given))
        output.square().mean().backward()
        gradients.append((output.detach(), given.grad))
    torch.testing.assert_close(gradients[0], gradients[1])
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(lent.encode_image(pixels), ours.encode_image(pixels))
    torch.testing.assert_close(lent.decode_latents(latents), ours.decode_latents(latents))


def test_the_pages_run_writes_a_lora(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lent: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(blocks(root)[1], {"MyModel": lambda _: lent, "host": None})
    assert load_lora(tmp_path / "forget-dog.safetensors").metadata["unlearn_concept"] == "dog"
