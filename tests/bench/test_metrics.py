"""Every number of the bench on values that were computed by hand."""

from __future__ import annotations

import math

import pytest

from bench.protocol.metrics import (
    Share,
    neighbours,
    overall,
    paired_drop,
    reported,
    resolved,
    retain_accuracy,
    selective_alignment,
    unlearning_accuracy,
    verdict,
    wilson,
)


def test_wilson_interval_of_none_and_of_half() -> None:
    # No hit of n: from 0 to z^2 / (n + z^2) = 3.8416 / 203.8416.
    assert wilson(0, 200) == pytest.approx((0, 0.018846))
    # Half of 100: 0.5 -+ z sqrt(0.0025 + z^2 / 40000) / (1 + z^2 / 100), which is 0.096170.
    assert wilson(50, 100) == pytest.approx((0.403830, 0.596170), abs=1e-6)
    assert wilson(0, 0) == (0, 1)


def test_a_share_counts_its_readings() -> None:
    share = Share.of("0110")
    assert (share.hits, share.count, share.value) == (2, 4, 0.5)
    assert Share.of("").value == 0


def test_unlearning_accuracy_is_the_share_without_the_concept() -> None:
    assert unlearning_accuracy(Share(3, 200)) == pytest.approx(0.985)


def test_retain_accuracy_leaves_out_what_the_base_does_not_draw() -> None:
    # Pictures of dog, pig, dog, pig, dog: read 1 0 1 1 0.
    asked = ("dog", "pig")
    assert retain_accuracy("10110") == Share(3, 5)
    assert retain_accuracy(reported("10110", asked, left_out=["pig"])) == Share(2, 3)
    assert reported("10110", ()) == "10110"


def test_overall_is_the_harmonic_mean_of_three() -> None:
    # 3 / (1/0.9 + 1/0.8 + 1/0.6) = 3 / (40/36 + 45/36 + 60/36) = 108 / 145
    assert overall(0.9, 0.2, 0.7, 0.5) == pytest.approx(108 / 145)
    assert overall(0.0, 0.2, 0.7, 0.5) == 0
    assert overall(1, 0, 1, 1) == 1


def test_a_paired_drop_of_equal_pictures_is_nothing() -> None:
    drop = paired_drop("1101" * 50, "1101" * 50)
    assert drop.value == 0
    assert drop.low == pytest.approx(-drop.high)
    assert drop.high < 0.03  # two independent shares of 150 in 200 would give 0.084


def test_a_paired_drop_has_newcombes_interval() -> None:
    # Of 50: 36 both, 12 lost, 2 won, none neither: shares 0.96 and 0.76, Wilson intervals
    # [0.86540, 0.98896] and [0.62587, 0.85703]. A = 48*2*38*12, B = 36*0 - 12*2 = -24 is negative
    # and stays: phi = -24 / 209.23 = -0.11471.
    drop = paired_drop("1" * 48 + "0" * 2, "1" * 36 + "0" * 12 + "1" * 2)
    below = math.sqrt(0.09460**2 + 2 * 0.11471 * 0.09460 * 0.09703 + 0.09703**2)
    above = math.sqrt(0.02896**2 + 2 * 0.11471 * 0.02896 * 0.13413 + 0.13413**2)
    assert drop.value == pytest.approx(0.2)
    assert drop.interval == pytest.approx((0.2 - below, 0.2 + above), abs=2e-5)
    assert drop.interval == pytest.approx((0.0569, 0.3404), abs=1e-4)


def test_agreement_is_corrected_for_continuity() -> None:
    # Of 40: 14 both, 5 lost, none won, 21 neither. B = 294 > 20, so phi = (294 - 20) / sqrt(A)
    # with A = 19 * 21 * 14 * 26 = 145236: phi = 0.718976.
    drop = paired_drop("1" * 19 + "0" * 21, "1" * 14 + "0" * 26)
    (low_1, high_1), (low_2, high_2) = wilson(19, 40), wilson(14, 40)
    one, other = 0.475 - low_1, high_2 - 0.35
    below = math.sqrt(one**2 - 2 * 0.718976 * one * other + other**2)
    one, other = high_1 - 0.475, 0.35 - low_2
    above = math.sqrt(one**2 - 2 * 0.718976 * one * other + other**2)
    assert drop.value == pytest.approx(0.125)
    assert drop.interval == pytest.approx((0.125 - below, 0.125 + above), abs=1e-6)


def test_no_pictures_say_nothing_about_a_drop() -> None:
    assert paired_drop("", "").interval == (-1, 1)


def test_neighbours_have_a_worst_one_and_a_mean() -> None:
    before = {"fox": "1111", "wolf": "1110", "lion": "1111"}
    after = {"fox": "1111", "wolf": "1000", "lion": "1101"}
    found = neighbours(before, after)
    assert found.worst_word == "wolf"
    assert found.worst.value == pytest.approx(0.5)
    assert found.mean.value == pytest.approx((11 - 8) / 12)


def test_selective_alignment_looks_at_the_other_object() -> None:
    share, drop = selective_alignment("1110", "1100")
    assert share == Share(2, 4)
    assert drop.value == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("interval", "word"),
    [((0.0, 0.009), "met"), ((0.012, 0.05), "missed"), ((0.0, 0.019), "not resolved")],
)
def test_a_limit_inside_the_interval_is_not_resolved(
    interval: tuple[float, float], word: str
) -> None:
    assert verdict(0.01, interval) == word
    assert resolved(0.01, interval) == (word != "not resolved")
