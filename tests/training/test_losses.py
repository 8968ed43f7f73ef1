"""Distances between text-encoder states, against values worked out by hand."""

import pytest
import torch
from tiny_model import draw
from torch import Tensor

from unlearn_core.training.losses import (
    ROLE_COUNT,
    VARIANCE_FLOOR,
    RoleScales,
    drift,
    role_distance,
)
from unlearn_core.words.prompts import ROLE_BOS, ROLE_CONCEPT, ROLE_EOS, ROLE_PAD, ROLE_WORD

B, C, W, E, P = ROLE_BOS, ROLE_CONCEPT, ROLE_WORD, ROLE_EOS, ROLE_PAD
ONES = RoleScales(torch.ones(ROLE_COUNT))


def distance(changes: list[list[float]], roles: list[list[int]], scales: RoleScales) -> Tensor:
    states = torch.tensor(changes)[..., None].expand(-1, -1, 3)
    return role_distance(states, torch.zeros_like(states), torch.tensor(roles), scales)


@pytest.mark.parametrize(
    ("changes", "roles", "expected"),
    [
        ([0, 0, 0, 0, 0], [B, W, C, E, P], 0.0),
        ([1, 1, 1, 1, 1], [B, W, C, E, P], 1.0),
        ([0, 0, 2, 0, 0], [B, W, C, E, P], 4 / 5),
        ([0, 0, 2, 0, 0], [B, C, C, E, P], (4 / 2) / 4),
        ([0, 0, 0, 0, 3], [B, E, P, P, P], (9 / 3) / 3),
        ([0, 2, 0, 0, 0], [B, E, P, P, P], 4 / 3),
        ([1, 0], [B, E], 1 / 2),
    ],
)
def test_every_role_weighs_alike_however_many_positions_it_has(
    changes: list[float], roles: list[int], expected: float
) -> None:
    assert distance([[float(c) for c in changes]], [roles], ONES).tolist() == [
        pytest.approx(expected)
    ]


def test_a_distance_is_in_units_of_the_roles_variance() -> None:
    scales = RoleScales(torch.tensor([1.0, 4.0, 1.0, 2.0, 1.0]))
    rows = distance([[0.0, 2.0, 0.0], [0.0, 0.0, 2.0]], [[B, C, E], [B, C, E]], scales)
    assert rows.tolist() == pytest.approx([4 / 4 / 3, 4 / 2 / 3])


def test_widths_are_averaged() -> None:
    states = torch.tensor([[[3.0, 0.0, 0.0, 1.0]]])
    value = role_distance(states, torch.zeros_like(states), torch.tensor([[E]]), ONES)
    assert value.tolist() == [2.5]


def test_prompts_do_not_mix_and_the_gradient_flows_to_the_states() -> None:
    states = draw(3, 5, 4).requires_grad_(True)
    roles = torch.tensor([[B, W, C, E, P]] * 3)
    rows = role_distance(states, torch.zeros(3, 5, 4), roles, ONES)
    assert rows.shape == (3,)
    rows[1].backward()
    assert states.grad is not None
    assert [bool(row.any()) for row in states.grad] == [False, True, False]


def test_scales_are_the_variance_within_each_role() -> None:
    roles = torch.tensor([[B, W, E, P], [B, W, E, P]])
    words, ends, pads = [[1.0, 0.0], [3.0, 0.0]], [[0.0, 10.0], [0.0, -10.0]], [[5.0, 5.0]] * 2
    bos = [[2.0, 2.0]] * 2
    states = torch.tensor([[bos[i], words[i], ends[i], pads[i]] for i in range(2)])
    total = float(states.flatten(0, 1).var(0, unbiased=False).mean())
    variance = RoleScales.measure(states, roles).variance
    assert variance[W].item() == pytest.approx(0.5)
    assert variance[E].item() == pytest.approx(50)
    assert variance[P].item() == pytest.approx(total * VARIANCE_FLOOR)  # they don't vary at all
    assert variance[C].item() == pytest.approx(total)  # no such position
    assert variance[B].item() == pytest.approx(total)  # the same in every prompt


def test_scaling_the_model_changes_no_distance() -> None:
    states, targets = draw(6, 5, 8), draw(6, 5, 8, seed=1)
    roles = torch.tensor([[B, W, C, E, P]] * 6)
    one = role_distance(states, targets, roles, RoleScales.measure(states, roles))
    scales = RoleScales.measure(10 * states, roles)
    torch.testing.assert_close(role_distance(10 * states, 10 * targets, roles, scales), one)


def test_drift_is_the_greatest_relative_change_and_leaves_bos_out() -> None:
    before = torch.tensor([[[3.0, 4.0], [0.0, 2.0], [5.0, 0.0]]]).repeat(3, 1, 1)
    after = before.clone()
    after[0, 0] += 100  # BOS
    after[1, 1, 0] += 1  # 1 of 2
    after[1, 2, 1] += 1  # 1 of 5
    after[2, 2, 0] -= 4  # 4 of 5
    assert drift(after, before).tolist() == pytest.approx([0, 0.5, 0.8])


def test_drift_of_a_state_that_was_zero_is_finite() -> None:
    assert bool(drift(torch.ones(1, 2, 2), torch.zeros(1, 2, 2)).isfinite().all())
