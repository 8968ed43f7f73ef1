"""peft beside the transformers and accelerate of each host, in processes of their own.

The old packages go into throwaway folders in front of this environment's; torch is shared.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import install

TAKE_ONE_STEP = """
import peft, torch, transformers
from transformers import CLIPTextConfig, CLIPTextModel

size = dict(vocab_size=64, hidden_size=16, intermediate_size=32, max_position_embeddings=8)
ends = dict(bos_token_id=62, eos_token_id=63, pad_token_id=0)
encoder = CLIPTextModel(CLIPTextConfig(num_hidden_layers=2, num_attention_heads=2, **size, **ends))
encoder.requires_grad_(False)
names = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
encoder = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=names), encoder)
trained = [weight for weight in encoder.parameters() if weight.requires_grad]
assert len(trained) == 2 * 2 * len(names), len(trained)

ids = torch.arange(56, 64)[None]
before = encoder(ids).last_hidden_state
(before * torch.randn(before.shape)).sum().backward()
torch.optim.SGD(trained, lr=1.0).step()
assert (encoder(ids).last_hidden_state - before).abs().max() > 1e-4
print(transformers.__version__, peft.__version__)
"""

A1111 = ["transformers==4.30.2", "tokenizers==0.13.3", "accelerate==0.21.0"]
FORGE = ["transformers==4.46.1", "tokenizers==0.20.3", "accelerate==0.31.0"]
OLDEST_NEW_HOST = ["transformers==4.50.3", "tokenizers==0.21.4", "accelerate==0.34.2"]
HUB = "huggingface-hub==0.36.0"
SAFE_PEFT = f"peft=={install.SAFE_PEFT}"


def take_one_step(folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", TAKE_ONE_STEP]
    process = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", timeout=120
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.parametrize(
    "packages",
    [
        pytest.param([SAFE_PEFT, *A1111, HUB], id="0.13.2 in A1111"),
        pytest.param([SAFE_PEFT, *FORGE, HUB], id="0.13.2 in Forge"),
        pytest.param([SAFE_PEFT], id="0.13.2 beside today's transformers"),
        pytest.param([install.peft_requirement(), *OLDEST_NEW_HOST, HUB], id="newest in 4.50"),
        pytest.param([], id="what is installed here"),
    ],
)
def test_peft_trains_a_lora_beside(packages: list[str], tmp_path: Path) -> None:
    if packages:
        options = ["--no-deps", "--only-binary", ":all:", "--no-compile", "--target", str(tmp_path)]
        process = install.pip(sys.executable, "install", *options, *packages)
        if "No matching distribution" in process.stderr:
            pytest.skip(f"no wheel for this Python and platform: {process.stderr.splitlines()[-1]}")
        assert process.returncode == 0, process.stderr
    versions = take_one_step(tmp_path)
    for package in packages:
        name, _, version = package.partition("==")
        if version and name in ("peft", "transformers"):
            assert version in versions
