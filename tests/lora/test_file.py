"""The LoRA file: what is in it, the same bytes each time, and files that must be refused."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from unlearn_core.errors import BadFile
from unlearn_core.lora.file import load_lora, lora_bytes, save_lora
from unlearn_core.lora.keys import ATTENTION, ModuleKey, kohya_name, peft_name, text_module
from unlearn_core.lora.weights import LoraPair, LoraWeights, complete, round_to_half

WIDTH = 16
Q0 = text_module(0, "q_proj")
FC1 = text_module(2, "fc1")
REPOSITORY = Path(__file__).parents[2]


def make_lora(seed: int = 0, rank: int = 4, alpha: float = 2.0) -> LoraWeights:
    """Random q and v of layer 0, fc1 of layer 2."""
    draw = torch.Generator().manual_seed(seed)
    pairs = {}
    for key, out in ((FC1, 4 * WIDTH), (text_module(0, "v_proj"), WIDTH), (Q0, WIDTH)):
        down = torch.randn(rank, WIDTH, generator=draw)
        pairs[key] = LoraPair(down, torch.randn(out, rank, generator=draw), alpha)
    return LoraWeights(pairs, {"unlearn_concept": "dög", "unlearn_seed": str(seed)})


def assert_same(one: LoraWeights, two: LoraWeights) -> None:
    assert one.pairs.keys() == two.pairs.keys()
    for key, pair in one.pairs.items():
        assert torch.equal(pair.down, two.pairs[key].down)
        assert torch.equal(pair.up, two.pairs[key].up)
        assert pair.alpha == two.pairs[key].alpha


def test_all_four_attention_modules_exist_after_completing() -> None:
    lora = make_lora()
    whole = complete(lora)
    assert list(whole.pairs) == sorted([*(text_module(0, name) for name in ATTENTION), FC1])
    added = whole.pairs[text_module(0, "out_proj")]
    assert not added.delta().any()
    assert added.down.shape == (4, WIDTH)
    assert whole.pairs[Q0] is lora.pairs[Q0]
    assert len(lora.pairs) == 3, "the LoRA that was given must stay as it is"


def test_a_saved_lora_comes_back_as_its_half_precision_self(tmp_path: Path) -> None:
    lora = make_lora(alpha=0.3)
    save_lora(lora, tmp_path / "forget-dog.safetensors")
    loaded = load_lora(tmp_path / "forget-dog.safetensors")
    assert_same(loaded, round_to_half(complete(lora)))
    assert loaded.metadata["unlearn_concept"] == "dög"


def test_the_file_holds_what_the_hosts_look_for(tmp_path: Path) -> None:
    path = tmp_path / "forget-dog.safetensors"
    save_lora(make_lora(), path)
    tensors = load_file(path)
    assert len(tensors) == 15
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    for name, tensor in tensors.items():
        assert tensor.dtype == (torch.float32 if name.endswith(".alpha") else torch.float16)
    assert tensors[kohya_name(Q0, "alpha")].item() == 2.0
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata == {
        "ss_base_model_version": "sd_v2",
        "ss_network_alpha": "2",
        "ss_network_dim": "4",
        "ss_network_module": "networks.lora",
        "ss_output_name": "forget-dog",
        "ss_v2": "True",
        "unlearn_concept": "dög",
        "unlearn_seed": "0",
    }


def test_the_header_is_sorted_and_the_data_starts_at_a_multiple_of_8() -> None:
    for length in range(8):
        content = lora_bytes(make_lora(), "n" * (length + 1))
        size = int.from_bytes(content[:8], "little")
        assert size % 8 == 0
        header = json.loads(content[8 : 8 + size])
        assert content[8:10] == b'{"'
        assert list(header) == sorted(header)
        assert list(header["__metadata__"]) == sorted(header["__metadata__"])


def test_every_process_writes_the_same_bytes() -> None:
    code = (
        "import sys, hashlib, torch\n"
        "from unlearn_core.lora.file import *\n"
        "from unlearn_core.lora.weights import *\n"
        "from unlearn_core.lora.keys import text_module\n"
        "pairs = {text_module(n, 'q_proj'): LoraPair(torch.full((2, 8), n / 7),"
        " torch.ones(8, 2), 1.0) for n in (2, 0, 1)}\n"
        "notes = {f'unlearn_{n}': str(n) for n in range(20)}\n"
        "content = lora_bytes(LoraWeights(pairs, notes), 'x')\n"
        "sys.stdout.write(hashlib.sha256(content).hexdigest())\n"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(hashes) == 1
    assert len(hashes.pop()) == 64
    assert len({hashlib.sha256(lora_bytes(make_lora())).hexdigest() for _ in range(10)}) == 1


def test_the_order_of_pairs_and_notes_does_not_change_the_bytes() -> None:
    lora = make_lora()
    turned = LoraWeights(dict(reversed(lora.pairs.items())), dict(reversed(lora.metadata.items())))
    assert lora_bytes(turned) == lora_bytes(lora)


def test_mixed_ranks_are_called_dynamic(tmp_path: Path) -> None:
    pairs = {**make_lora().pairs, FC1: make_lora(rank=2, alpha=1.0).pairs[FC1]}
    save_lora(LoraWeights(pairs), tmp_path / "a.safetensors")
    metadata = load_lora(tmp_path / "a.safetensors").metadata
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("Dynamic", "Dynamic")


def test_an_existing_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"x" * 100_000)
    save_lora(make_lora(), path)
    assert path.read_bytes() == lora_bytes(make_lora(), "a")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({}, "changes nothing"),
        ({text_module(23, "fc1"): LoraPair(torch.ones(1, 4), torch.ones(4, 1), 1.0)}, "0 to 22"),
        ({FC1: LoraPair(torch.full((1, 4), 1e6), torch.ones(4, 1), 1.0)}, "not finite"),
        ({FC1: LoraPair(torch.ones(1, 4), torch.full((4, 1), torch.nan), 1.0)}, "not finite"),
        ({FC1: LoraPair(torch.ones(1, 4), torch.ones(4, 1), float("nan"))}, "not finite"),
    ],
)
def test_a_lora_that_no_host_could_use_is_not_saved(
    pairs: dict[ModuleKey, LoraPair], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadFile, match=message):
        save_lora(LoraWeights(pairs), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


# Files that come from elsewhere.


def _tensors(down: str, up: str, alpha: str | None = None) -> dict[str, Tensor]:
    pair = make_lora().pairs[Q0]
    tensors = {down: pair.down.clone(), up: pair.up.clone()}
    if alpha is not None:
        tensors[alpha] = torch.tensor(2.0)
    return tensors


KOHYA = (kohya_name(Q0, "down"), kohya_name(Q0, "up"), kohya_name(Q0, "alpha"))
SDXL_STYLE = tuple(name.replace("lora_te_", "lora_te1_") for name in KOHYA)
PEFT = tuple(peft_name(Q0, part, "text_encoder.text_model.") for part in ("down", "up"))
DIFFUSERS = tuple(name.replace(".default", "") for name in PEFT)


@pytest.mark.parametrize(
    ("names", "alpha"),
    [(KOHYA, 2.0), (KOHYA[:2], 4.0), (SDXL_STYLE, 2.0), (PEFT, 4.0), (DIFFUSERS, 4.0)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loras_from_other_tools_load(
    names: tuple[str, ...], alpha: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in _tensors(*names).items()}, path)
    loaded = load_lora(path)
    assert loaded.pairs[Q0].alpha == alpha
    assert loaded.pairs[Q0].down.dtype == torch.float32
    assert torch.allclose(loaded.pairs[Q0].down, make_lora().pairs[Q0].down, rtol=1e-2)


UNET = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"
FILES: list[tuple[dict[str, Tensor], str]] = [
    ({UNET: torch.ones(2, 2)}, "not a LoRA of a text encoder.*lora_unet"),
    ({**_tensors(*KOHYA), UNET: torch.ones(2, 2)}, "1 of its 4 tensors"),
    ({"emb_params": torch.ones(2, 2)}, "not a LoRA"),
    ({}, "not a LoRA"),
    ({KOHYA[0]: torch.ones(2, 2)}, "q_proj of layer 0 has no up"),
    ({KOHYA[2]: torch.tensor(1.0)}, "has no down"),
    ({KOHYA[0]: torch.ones(2, 4), KOHYA[1]: torch.ones(4, 3)}, r"\(2, 4\).*\(4, 3\)"),
    ({KOHYA[0]: torch.ones(0, 4), KOHYA[1]: torch.ones(4, 0)}, "don't fit"),
    ({KOHYA[0]: torch.ones(2, 4, 1, 1), KOHYA[1]: torch.ones(4, 2, 1, 1)}, "don't fit"),
    ({**_tensors(*KOHYA[:2]), KOHYA[2]: torch.ones(3)}, "alpha of q_proj of layer 0"),
    ({**_tensors(*KOHYA[:2]), KOHYA[2]: torch.tensor(float("inf"))}, "not finite"),
    ({**_tensors(*KOHYA[:2]), KOHYA[2]: torch.tensor(True)}, "bool"),
    ({KOHYA[0]: torch.ones(2, 4, dtype=torch.int64), KOHYA[1]: torch.ones(4, 2)}, "int64"),
    ({**_tensors(*KOHYA[:2]), KOHYA[2]: torch.tensor(1e300, dtype=torch.float64)}, "not finite"),
    ({KOHYA[0]: torch.full((2, 4), torch.nan), KOHYA[1]: torch.ones(4, 2)}, "not finite"),
    ({**_tensors(*KOHYA[:2]), **_tensors(*DIFFUSERS)}, "twice"),
]


@pytest.mark.parametrize(("tensors", "message"), FILES)
def test_a_file_that_is_no_text_encoder_lora_is_refused(
    tensors: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(BadFile, match=message):
        load_lora(tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_an_alpha_may_be_a_whole_number(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {**_tensors(*KOHYA[:2]), KOHYA[2]: torch.tensor(2, dtype=dtype)}
    save_file(tensors, tmp_path / "a.safetensors")
    assert load_lora(tmp_path / "a.safetensors").pairs[Q0].alpha == 2.0


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save(_tensors(*KOHYA), tmp_path / "a.pt")
    with pytest.raises(BadFile, match="convert it to safetensors"):
        load_lora(tmp_path / "a.pt")


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"There is no folder .*nowhere"):
        save_lora(make_lora(), tmp_path / "nowhere" / "a.safetensors")
