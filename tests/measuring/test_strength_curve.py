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


@pytest.mark.parametrize(
    ("seen", "expected"), [({0.5: 2, 1: 1, 1.5: 0}, 1.5), ({0.5: 2, 1: 2, 1.5: 1}, 1)]
)
def test_a_strength_at_which_the_concept_is_still_seen_is_not_recommended(
    seen: dict[float, int], expected: float
) -> None:
    nothing = torch.zeros(1, 3, 8, 8)
    shares = {0.5: (0.8, 1.0), 1: (0.96, 0.96), 1.5: (0.99, 0.7)}
    curve = [CurvePoint(at, *shares[at], nothing, nothing, count) for at, count in seen.items()]
    assert recommend(curve) == expected
