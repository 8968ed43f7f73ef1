"""The demo's SD1 and SDXL: what is trained, what is shared, and the folders they lie in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from bench.emoji_canvas.families.export import export_families, load_family
from bench.emoji_canvas.families.measure import STREAMS, draw, encode_streams
from bench.emoji_canvas.families.models import OWN_PARTS, SD1, SDXL, end_padded, random_sizes
from bench.emoji_canvas.families.train import train_family
from bench.emoji_canvas.pictures import Scene
from bench.emoji_canvas.training.generator import Captions, write_captions
from bench.emoji_canvas.training.stage import Stage
from unlearn_core.loaders.demo_model import demo_folder, load_demo_pipeline
from unlearn_core.text.tokenizer import EOS, token_ids

Families = tuple[SD1, SDXL, Captions]


@pytest.fixture
def families() -> Families:
    """Both families untrained, knowing the words of a few captions."""
    captions = write_captions([Scene((index,), "flat", "red") for index in range(3)], 0.5)
    demo = load_demo_pipeline()
    sd1 = SD1(captions, demo)
    return sd1.eval(), SDXL(captions, demo, sd1.text_encoder).eval(), captions


def test_training_leaves_what_is_shared_as_it_is(families: Families, tmp_path: Path) -> None:
    _, sdxl, captions = families
    for model in (SD1(captions, load_demo_pipeline()), sdxl):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        stage = Stage("training", tmp_path / type(model).__name__, 0.02)
        stage.file.parent.mkdir()
        train_family(model, torch.randn(3, 4, 8, 8), captions, stage)
        changed = {
            name for name, value in model.state_dict().items() if not value.equal(before[name])
        }
        tower = "text_encoder_2." if model is sdxl else "text_encoder."
        assert any(name.startswith(tower) for name in changed)
        others = {name for name in changed if not name.startswith((tower, "names."))}
        assert all(any(part in name for part in OWN_PARTS) for name in others)
        assert bool(others) == (model is sdxl)


def test_exported_folders_come_back_as_pipelines(families: Families, tmp_path: Path) -> None:
    sd1, sdxl, captions = families
    export_families(sd1, sdxl, captions, tmp_path)
    pipeline = load_family(tmp_path, "sdxl")
    rows, ids = captions.rows[:1, 0], captions.tokens[captions.rows[:1, 0]]
    first = sd1.text_encoder(end_padded(rows, sd1.end), output_hidden_states=True)
    second = sdxl.text_encoder_2(rows, output_hidden_states=True)
    wanted = [first.hidden_states[-2], second.hidden_states[-2], second.text_embeds]
    text = pipeline.tokenizer_2.decode(ids[0][ids[0] != 0], skip_special_tokens=True)
    for stream, trained in zip(encode_streams(pipeline, [text]), wanted, strict=True):
        assert (stream - trained).abs().max() < 2e-2 * trained.abs().max()
    [tokens] = encode_streams(load_family(tmp_path, "sd1"), [text])
    assert (tokens - first.last_hidden_state).abs().max() < 2e-2 * tokens.abs().max()


def _tensors(file: Path) -> list[str]:
    with safe_open(file, "pt") as opened:
        return list(opened.keys())


def test_the_shipped_folders_hold_no_shared_weights() -> None:
    demo = demo_folder()
    files = {
        str(file.relative_to(demo))
        for name in ("sd1", "sdxl")
        for file in (demo / name).rglob("*.safetensors")
    }
    assert files == {
        "sd1/text_encoder/model.safetensors",
        "sdxl/text_encoder_2/model.safetensors",
        "sdxl/unet/diffusion_pytorch_model.safetensors",
    }
    own = _tensors(demo / "sdxl/unet/diffusion_pytorch_model.safetensors")
    assert all(any(part in name for part in OWN_PARTS) for name in own)


def test_the_shipped_folders_are_small() -> None:
    folders = [demo_folder() / name for name in ("sd1", "sdxl")]
    size = sum(file.stat().st_size for folder in folders for file in folder.rglob("*.*"))
    assert 10_000_000 < size < 14_000_000


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_the_pipelines_own_tokenizers_give_the_ids_that_were_trained(name: str) -> None:
    pipeline: Any = load_family(demo_folder(), name)
    ids = token_ids("a photo of a dog, flat style")
    options = {"padding": "max_length", "return_tensors": "pt"}
    text = "a photo of a dog, flat style"
    assert pipeline.tokenizer(text, **options).input_ids.equal(end_padded(ids, EOS))
    if name == "sdxl":
        assert pipeline.tokenizer_2(text, **options).input_ids.equal(ids)


def test_a_blanked_stream_changes_the_picture() -> None:
    pipeline = load_family(demo_folder(), "sdxl")
    full = draw(pipeline, ["a photo of a dog, flat style"])
    for name, kept in STREAMS.items():
        blanked = draw(pipeline, ["a photo of a dog, flat style"], kept)
        assert ((blanked - full).abs().mean() > 1e-3) == (name != "all")


def test_half_of_the_sizes_are_those_of_the_pictures() -> None:
    torch.manual_seed(0)
    sizes = random_sizes(1000)
    true = (sizes == torch.tensor([64.0, 64, 0, 0, 64, 64])).all(1)
    assert 0.4 < true.float().mean() < 0.6
    assert sizes.min() >= 0
    assert sizes.max() <= 1024


def test_the_end_fills_what_comes_after_it() -> None:
    padded = end_padded(token_ids("a dog"), EOS)[0].tolist()
    assert padded.count(0) == 0
    assert padded[: padded.index(EOS)] == token_ids("a dog")[0].tolist()[: padded.index(EOS)]
    assert set(padded[padded.index(EOS) :]) == {EOS}


def test_a_text_tower_starts_as_the_demos(families: Families) -> None:
    _, sdxl, captions = families
    rows = captions.rows[:, 0]
    demo = load_demo_pipeline().text_encoder
    known = demo.get_input_embeddings().weight[captions.tokens].any(1)
    told = rows[known[rows].all(1)]
    assert len(told)
    states = sdxl.text_encoder_2(told, output_hidden_states=True).hidden_states
    assert states[-1].equal(states[-2])
    own = demo(captions.tokens[told], output_hidden_states=True).hidden_states[-1]
    assert (states[-2] - own).abs().max() < 1e-3 * own.abs().max()
