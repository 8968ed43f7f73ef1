"""The demo model's judge, as the evaluation asks it."""

from __future__ import annotations

from torch import Tensor

from ..concept import Kind
from ..loaders.demo_model import load_demo_judge
from .evaluation import Judge


def evaluation_judge(kind: Kind) -> Judge:
    """The demo model's judge as a function: pictures to the names of their styles or objects."""
    judge = load_demo_judge()

    def look(pixels: Tensor) -> list[str]:
        objects, styles = judge.classify(pixels)
        if kind == "style":
            return [judge.styles[i] for i in styles.tolist()]
        return [judge.objects[i] for i in objects.tolist()]

    return Judge(frozenset(judge.styles if kind == "style" else judge.objects), look)
