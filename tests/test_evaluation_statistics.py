"""Means and their intervals (training/evaluation/statistics.py)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from training.evaluation.statistics import (
    Estimate,
    estimate,
    median,
    paired_difference,
    share_above,
)

NAN = math.nan


def test_the_mean_is_over_pictures_not_over_pairs() -> None:
    told = estimate({"a": [1.0, 2.0, 3.0], "b": [10.0]})
    assert told.mean == 4.0  # (1 + 2 + 3 + 10) / 4; the mean of the pairs' means is 6
    assert told.n == 4
    assert (told.low, told.high) == (2.0, 10.0)  # a pair alone is drawn in a quarter of the rounds


def test_pairs_are_drawn_as_the_binomial_distribution_says() -> None:
    told = estimate({str(k): [float(k == 0)] * 3 for k in range(40)}, rounds=20_000)
    assert told.mean == 1 / 40
    # Pair 0 is drawn k times of 40 with Binomial(40, 1/40): P(k <= 2) = 0.922, P(k <= 3) = 0.983.
    assert (told.low, told.high) == (0.0, 3 / 40)


def test_unknown_figures_are_left_out() -> None:
    known = estimate({"a": [1.0], "b": [3.0], "c": [4.0]})
    assert estimate({"a": [1.0, NAN], "b": [3.0], "c": [4.0], "d": [NAN], "e": []}) == known
    nothing = estimate({"a": [NAN], "b": []})
    assert nothing.n == 0
    assert all(map(math.isnan, (nothing.mean, nothing.low, nothing.high)))
    assert not nothing.decided


def test_one_pair_has_no_interval() -> None:
    told = estimate({"a": [5.0, 7.0]})
    assert (told.mean, told.n) == (6.0, 2)
    assert math.isnan(told.low)
    assert math.isnan(told.high)
    assert not told.decided


def test_the_order_of_pairs_changes_nothing_and_the_seed_does() -> None:
    values = {str(k): [math.sin(k), math.cos(k)] for k in range(13)}
    backwards = dict(reversed(values.items()))
    assert estimate(values) == estimate(backwards)
    assert estimate(values, seed=1).low != estimate(values).low


def test_one_picture_a_pair_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).gamma(2.0, size=37)
    told = estimate({str(k): [value] for k, value in enumerate(values)}, rounds=20_000)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile",
                       random_state=np.random.default_rng(4)).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert told.low == pytest.approx(theirs.low, abs=0.02 * width)
    assert told.high == pytest.approx(theirs.high, abs=0.02 * width)


@pytest.mark.parametrize(("pairs", "expected"), [(5, 0.84), (10, 0.90), (20, 0.93)])
def test_how_often_the_interval_holds_the_truth(pairs: int, expected: float) -> None:
    rng = np.random.default_rng(pairs)
    rounds, held = 600, 0
    for seed in range(rounds):
        values = rng.normal(size=(pairs, 1)) + 0.3 * rng.normal(size=(pairs, 4))
        told = estimate({str(k): list(row) for k, row in enumerate(values)}, seed, 300)
        held += told.low <= 0 <= told.high
    assert held / rounds == pytest.approx(expected, abs=0.04)


def test_pictures_of_a_pair_are_no_independent_witnesses() -> None:
    values = np.random.default_rng(5).normal(size=23)
    once = estimate({str(k): [value] for k, value in enumerate(values)})
    often = estimate({str(k): [value] * 50 for k, value in enumerate(values)})
    assert often.n == 50 * once.n
    assert often.low == pytest.approx(once.low)  # 50 copies tell nothing new
    assert often.high == pytest.approx(once.high)


def test_differences_are_of_pictures_from_the_same_noise() -> None:
    ours = {("a", 0): 3.0, ("a", 1): 5.0, ("b", 0): 9.0, ("b", 7): 99.0, ("c", 0): NAN}
    theirs = {("a", 0): 1.0, ("a", 1): 4.0, ("b", 0): 6.0, ("c", 0): 1.0, ("d", 0): 50.0}
    told = paired_difference(ours, theirs)
    assert told == Estimate(2.0, 1.5, 3.0, 3)  # 2 and 1 of pair a, 3 of pair b
    assert told.decided
    turned = paired_difference(theirs, ours)
    assert turned.mean == -2.0
    assert turned.decided
    assert paired_difference({("a", 0): 1.0}, {("a", 1): 1.0}).n == 0


def test_pairing_takes_out_what_methods_share() -> None:
    rng = np.random.default_rng(6)
    ours = {(str(k), 0): float(value) for k, value in enumerate(rng.normal(size=30))}
    theirs = {place: value - 0.1 + 0.01 * rng.normal() for place, value in ours.items()}
    told = paired_difference(ours, theirs)
    assert told.decided
    assert told.high - told.low < 0.01  # that of the means alone is about 0.7


def test_an_interval_that_holds_zero_is_undecided() -> None:
    assert not Estimate(0.1, -0.1, 0.3, 5).decided
    assert not Estimate(0.1, 0.0, 0.3, 5).decided
    assert Estimate(-0.1, -0.3, -0.05, 5).decided


def test_median_and_share_leave_unknown_figures_out() -> None:
    assert median([1.0, NAN, 2.0, 100.0, 4.0]) == 3.0
    assert share_above([0.4, 0.5, NAN, 0.6, 0.9, 0.1]) == 0.4
    assert share_above([1.0, 3.0], 2.0) == 0.5
    assert math.isnan(median([NAN]))
    assert math.isnan(share_above([]))
