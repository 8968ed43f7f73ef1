"""Which strength is recommended."""

from __future__ import annotations

import pytest
import torch

from unlearn_core.measuring.strength_curve import CurvePoint, recommend


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({0.5: (0.70, 1.0), 0.75: (0.96, 1.0), 1: (0.96, 0.96), 1.5: (0.99, 0.96)}, 1),
        ({0.5: (0.90, 1.0), 0.75: (0.96, 0.97), 1: (0.99, 0.80)}, 0.75),
        ({-1: (1.0, 1.0), 0.5: (0.2, 1.0)}, 0.5),
    ],
)
def test_the_best_compromise_is_recommended_and_1_among_equals(
    shares: dict[float, tuple[float, float]], expected: float
) -> None:
    nothing = torch.zeros(1, 3, 8, 8)
    curve = [CurvePoint(at, *both, nothing, nothing) for at, both in shares.items()]
    assert recommend(curve) == expected
