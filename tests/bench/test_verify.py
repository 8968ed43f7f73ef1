"""The page about one LoRA."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.__main__ import main
from bench.verify import command, compositions
from unlearn_core.concept import Concept
from unlearn_core.errors import BadSettings
from unlearn_core.forgetting.unlearn import unlearn
from unlearn_core.loaders.diffusers_model import load_model
from unlearn_core.lora.file import save_lora
from unlearn_core.measuring import drawing, strength_curve
from unlearn_core.settings import preset


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    place = tmp_path / "forget-dog.safetensors"
    result = unlearn(load_model("demo")[0], Concept("dog"), preset("quick", stand_in_pictures=0))
    save_lora(result.lora, place)
    return place


def test_verify_writes_a_page_and_leaves_the_lora(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "PICTURES", {"concept": 4})
    monkeypatch.setattr(compositions, "PICTURES", 2)
    monkeypatch.setattr(drawing, "DRAW_STEPS", 5)
    monkeypatch.setattr(strength_curve, "STRENGTHS", (0.0, 1.0))
    before, page = lora.read_bytes(), tmp_path / "page.html"
    words = ["verify", "--model", "demo", "--lora", str(lora), "--out", str(page)]
    main([*words, "--also", "loyal pet"])
    assert lora.read_bytes() == before
    said = capsys.readouterr().out
    assert re.search("forgotten: dog seen by the unchanged model in [34] of 4 .*, 0 after", said)
    text = page.read_text("utf-8")
    assert "loyal pet" in text
    assert "Compositions" in text
    with pytest.raises(SystemExit, match="forgets dog: choose"):
        main([*words, "--concept", "cat"])


def test_a_lora_that_does_not_say_what_it_forgets_is_refused() -> None:
    with pytest.raises(BadSettings, match="forgets nothing"):
        command.said_by({}, None)


def test_clip_reads_the_words_of_the_concept(monkeypatch: pytest.MonkeyPatch) -> None:

    asked: list[Any] = []

    def clip(folder: Path, objects: list[str], styles: list[str], place: Any) -> Any:
        asked.append(objects)
        return lambda pixels: (torch.eye(3)[[1, 2]], torch.zeros(2, 3))

    monkeypatch.setattr(command, "ClipJudge", clip)
    forgotten: Any = SimpleNamespace(concept=Concept("dog"), stand_in="cat", kept=("cat", "fox"))
    judge = command.clip_judge(Path("clip"), forgotten, torch.device("cpu"))
    assert asked == [["dog", "cat", "fox"]]
    assert judge.look(torch.zeros(2, 3, 8, 8), "dog") == ("cat", "fox")


@pytest.mark.parametrize(
    ("right", "expected"),
    [([16, 15], "16 of 16 before, 15 after"), ([12, 15], "not readable: the model sees it in 12")],
)
def test_what_the_model_does_not_see_itself_is_not_counted(right: list[int], expected: str) -> None:
    assert compositions.said(right, 16).startswith(expected)


def test_articles_of_compositions() -> None:
    prompts = [it.prompt for it in compositions.compositions("owl", "bee")]
    assert prompts[0] == "a photo of an owl and a bee"
    assert prompts[3] == "an owl to the left of a bee"
