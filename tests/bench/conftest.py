"""Fixtures of the bench's tests."""

from __future__ import annotations

import numpy as np
import pytest

from bench.emoji_canvas.drawings import SETS, SIZE
from bench.emoji_canvas.pictures import Painter
from bench.emoji_canvas.world import CONTROLS, OBJECTS


@pytest.fixture
def painter() -> Painter:
    """Every object a red disc, on its set's own transparent ground."""
    rows, columns = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    disc = np.zeros((SIZE, SIZE, 4), np.uint8)
    disc[rows**2 + columns**2 < (SIZE // 2) ** 2] = (200, 30, 30, 255)
    return Painter({name: np.stack([disc] * len(OBJECTS + CONTROLS)) for name in SETS})
