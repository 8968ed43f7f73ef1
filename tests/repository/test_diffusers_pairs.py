"""diffusers beside transformers: which pairs take a LoRA of text encoders whole.

Each pair runs in a process of its own, on pipelines of SD2's and of SDXL's kind with tiny random
parts. Packages lie in .hosts/diffusers-pairs/, in front of this environment's; torch is shared.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from host_install import ROOT, install_once

import install

HOME = ROOT / ".hosts" / "diffusers-pairs"
LOAD_A_LORA = """
import copy, sys
import diffusers as d, torch, transformers as t
from safetensors.torch import save_file

size = dict(vocab_size=64, hidden_size=16, intermediate_size=32, max_position_embeddings=8)
ends = dict(bos_token_id=62, eos_token_id=63, pad_token_id=0)
more = dict(num_hidden_layers=3, num_attention_heads=2, projection_dim=16, **ends)
config = t.CLIPTextConfig(**size, **more)
blocks = dict(down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",))
unet = d.UNet2DConditionModel(
    block_out_channels=(4,), norm_num_groups=1, cross_attention_dim=16, layers_per_block=1,
    attention_head_dim=2, sample_size=8, **blocks,
)
vae = d.AutoencoderKL(block_out_channels=(4,), norm_num_groups=1)
parts = dict(vae=vae, unet=unet, scheduler=d.DDIMScheduler(), tokenizer=None)
ids = torch.arange(56, 64)[None]


def pipeline(family):
    torch.manual_seed(0)
    first, second = t.CLIPTextModel(config), t.CLIPTextModelWithProjection(config)
    if family == "SD2":
        safety = dict.fromkeys(("safety_checker", "feature_extractor"))
        pipe = d.StableDiffusionPipeline(text_encoder=first, **safety, **parts)
        return pipe, {"te": "text_encoder"}
    two = dict(text_encoder_2=second, tokenizer_2=None)
    pipe = d.StableDiffusionXLPipeline(text_encoder=first, **two, **parts)
    return pipe, {"te1": "text_encoder", "te2": "text_encoder_2"}


def state(encoder):
    with torch.no_grad():
        return encoder.train(False)(ids)[0]


print(d.__version__, t.__version__)
for family in ("SD2", "SDXL"):
    pipe, encoders = pipeline(family)
    tensors, expected = {}, {}
    for part, name in encoders.items():
        changed = copy.deepcopy(getattr(pipe, name))
        for path, linear in changed.named_modules():
            if isinstance(linear, torch.nn.Linear) and "layers." in path:
                down, up = torch.randn(2, linear.in_features), torch.randn(linear.out_features, 2)
                key = "text_model_" + path.removeprefix("text_model.").replace(".", "_")
                tensors[f"lora_{part}_{key}.lora_down.weight"] = down
                tensors[f"lora_{part}_{key}.lora_up.weight"] = up
                tensors[f"lora_{part}_{key}.alpha"] = torch.tensor(2.0)
                linear.weight.data += up @ down
        expected[name] = state(changed)
        assert (expected[name] - state(getattr(pipe, name))).abs().max() > 1
    save_file(tensors, f"{sys.argv[1]}/lora.safetensors")
    try:
        pipe.load_lora_weights(sys.argv[1], weight_name="lora.safetensors")
    except IndexError:
        print(family, "IndexError")
        continue
    errors = {name: (state(getattr(pipe, name)) - it).abs().max() for name, it in expected.items()}
    dropped = [name for name, error in errors.items() if error > 1e-3]
    print(family, "drops " + ", ".join(dropped) if dropped else "works")
"""
HTTP = ("httpx==0.28.1", "httpcore==1.0.9")
NEAR_5 = ("tokenizers==0.22.1", "huggingface-hub==1.33.0", *HTTP)
FORGE = ("tokenizers==0.20.3", "huggingface-hub==0.36.0", "accelerate==0.31.0", "peft==0.13.2")
WORKS, RAISES = ["SD2 works", "SDXL works"], ["SD2 IndexError", "SDXL IndexError"]
DROPPED = "the second text encoder is left out, and no error says so"
HALF = ["SD2 works", "SDXL drops text_encoder_2"]


PAIRS = [
    pytest.param("0.31.0", "4.46.1", FORGE, WORKS, id="what Forge ships"),
    pytest.param("0.40.0", "5.5.4", NEAR_5, WORKS, id="the last that 0.40 works with"),
    pytest.param("0.40.0", "5.6.2", NEAR_5, RAISES, id="the first that it does not"),
    pytest.param("0.41.0", "5.6.2", NEAR_5, HALF, id="half of SDXL"),
    pytest.param("", "", (), WORKS, id="what is installed here"),
]


def folder_of(package: str) -> Path:
    """Where a package lies, installed once."""
    folder = HOME / package
    HOME.mkdir(parents=True, exist_ok=True)

    def fill() -> None:
        options = ["--no-deps", "--only-binary", ":all:", "--no-compile", "--target", str(folder)]
        process = install.pip(sys.executable, "install", *options, package)
        if "No matching distribution" in process.stderr:
            pytest.skip(f"no wheel for this Python and platform: {process.stderr.splitlines()[-1]}")
        assert process.returncode == 0, process.stderr

    install_once(folder, package, package, fill, 12 if package.startswith("transformers") else 4)
    return folder


@pytest.mark.host
@pytest.mark.parametrize(("diffusers", "transformers", "others", "found"), PAIRS)
def test_diffusers_loads_a_lora_beside(
    diffusers: str, transformers: str, others: tuple[str, ...], found: list[str], tmp_path: Path
) -> None:
    packages = [f"diffusers=={diffusers}", f"transformers=={transformers}", *others]
    folders = [folder_of(package) for package in packages] if diffusers else []
    path = os.pathsep.join(map(str, folders))
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD_A_LORA, str(tmp_path)], timeout=600,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    versions, *said = process.stdout.splitlines()
    assert said == found
    if diffusers:
        assert versions == f"{diffusers} {transformers}"


def test_the_guide_has_every_pair_that_is_tested() -> None:
    text = (ROOT / "docs/compatibility.md").read_text("utf-8")
    said = re.findall(
        r"^\| ([\d.]+) \| ([\d.]+) \| by tests \| (.+) \| (.+) \|$", text, re.MULTILINE
    )
    words = {"works": "works", "IndexError": "`IndexError`", "drops": DROPPED}
    tested = [
        (diffusers, transformers, *(words[line.split()[1]] for line in found))
        for diffusers, transformers, _, found in (pair.values for pair in PAIRS)
        if diffusers
    ]
    assert sorted(said) == sorted(tested)
