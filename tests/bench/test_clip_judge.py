"""CLIP as the judge of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.protocol.cells import World
from bench.protocol.clip_judge import ClipJudge
from unlearn_core.errors import BadFile


def tiny_clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = CLIPConfig(
        text_config={**small, "num_attention_heads": 2, "eos_token_id": 49407},
        vision_config={**small, "num_attention_heads": 2, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


def test_clip_judges_by_the_nearest_text(tmp_path: Path) -> None:
    names, styles = ["dog", "cat", "scissors"], ["flat", "neon"]
    judge = ClipJudge(tiny_clip(tmp_path), names, styles, torch.device("cpu"))
    pixels = torch.rand(3, 3, 48, 48) * 2 - 1
    by_object, by_style = judge(pixels)
    assert (by_object.shape, by_style.shape) == ((3, 3), (3, 2))
    assert bool((by_object.abs() <= 1 + 1e-5).all())
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])  # a picture of CLIP's mean is zeros
    gray = (2 * mean - 1)[None, :, None, None].expand(1, 3, 32, 32)
    model = judge._model
    ids = torch.tensor([[49406, 320, 1125, 539, 320, 1929, 49407]])  # a photo of a dog
    with torch.no_grad():
        wanted = torch.nn.functional.cosine_similarity(
            model(pixel_values=torch.zeros(1, 3, 32, 32), input_ids=ids).image_embeds,
            model(pixel_values=torch.zeros(1, 3, 32, 32), input_ids=ids).text_embeds,
        )
    assert float(judge(gray)[0][0, 0]) == pytest.approx(float(wanted), abs=1e-5)
    reading = World(judge).read(pixels)
    assert len(reading.objects) == 3


def test_a_folder_without_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"config\.json"):
        ClipJudge(tmp_path, ["dog"], ["flat"], torch.device("cpu"))
