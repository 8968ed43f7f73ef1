"""The report as one page."""

from __future__ import annotations

import re

import torch

from unlearn_core.concept import Concept
from unlearn_core.lora.metadata import Forgotten
from unlearn_core.measuring.evaluation import Evaluation, Group
from unlearn_core.measuring.strength_curve import CurvePoint
from unlearn_core.reporting.report import report_files

PICTURES = torch.zeros(2, 3, 8, 8)


def evaluation(kind: str = "object") -> Evaluation:
    concept = Concept("dog", kind=kind)  # type: ignore[arg-type]
    forgotten = Forgotten(concept, ("dog",), "<b>cat</b>", ("fox",))
    own = Group("concept", "dog", "a photo of a dog", PICTURES, PICTURES, "dog",
                ("dog",) * 8, ("cat",) * 5 + ("dog", None, None))  # fmt: skip
    rest = Group("neighbour", "fox", "a photo of a fox", PICTURES, PICTURES, "fox",
                 ("fox",) * 4, ("fox",) * 4)  # fmt: skip
    point = CurvePoint(1.0, 0.9, 1.0, PICTURES, PICTURES)
    return Evaluation(forgotten, (own, rest), 0.01, {"blurry": 0.02}, {"fox": 0.03}, (point,), 1.0,
                      0, "a test")  # fmt: skip


def page() -> str:
    metadata = {"unlearn_settings": '{"rank": 8}', "unlearn_base_model_hash": "abc"}
    return report_files(evaluation(), None, metadata, "0123")["report.html"].decode("utf-8")


def test_the_page_stands_alone() -> None:
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page())
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<script" not in page()


def test_the_page_counts_pictures_and_says_what_can_be_checked() -> None:
    text = re.sub(r"<[^>]+>", " ", page())
    assert "8 of 8" in text
    assert "1 of 8" in text
    assert "cat 5, something else 2, dog 1" in text
    for fact in ("0123", "abc", "2.00%", "3.00%"):
        assert fact in text


def test_words_are_no_markup() -> None:
    assert "<b>cat</b>" not in page()
    assert "&lt;b&gt;cat&lt;/b&gt;" in page()
