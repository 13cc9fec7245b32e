"""Intervals over examples and seeds: what they cover, and what they are made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sftloss.experiments._paired import crossed_mean, linearised
from sftloss.experiments._student import t_quantile, t_tail


@pytest.mark.parametrize("df", [1.0, 1.5, 2.0, 7.3, 100.0, 1e5])
def test_t_distribution_is_scipys(df):
    for probability in (0.6, 0.8, 0.975, 0.9995):
        # the continued fraction stops at 1e-15, its product over hundreds of terms keeps nine digits
        assert t_quantile(probability, df) == pytest.approx(stats.t.ppf(probability, df), rel=1e-8)
    for t in (0.1, 1.0, 3.0, 30.0):
        assert t_tail(t, df) == pytest.approx(2 * stats.t.sf(t, df), rel=1e-8)


def test_one_seed_gives_the_interval_of_a_t_test():
    values = np.random.default_rng(0).normal(0.3, 1.0, 40)
    found = crossed_mean(values[None]).interval(0.95)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_p_and_interval_agree():
    mean = crossed_mean(np.random.default_rng(1).normal(0.2, 1.0, (3, 50)))
    bounds = mean.interval(1.0 - mean.p)
    assert min(abs(bounds.low), abs(bounds.high)) < 1e-9


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3])
def test_intervals_of_three_seeds_cover_the_truth(spread):
    """Whether examples or seeds are what varies; 0.93 is what Satterthwaite's approximation keeps where both do."""
    random = np.random.default_rng(2)
    hits = 0
    for _ in range(600):
        table = random.normal(size=(1, 80)) + spread * random.normal(size=(3, 1)) + random.normal(size=(3, 80))
        bounds = crossed_mean(table).interval(0.95)
        hits += bounds.low <= 0.0 <= bounds.high
    # three standard errors of a share of 600 below 0.93
    assert hits / 600 > 0.93 - 3 * math.sqrt(0.93 * 0.07 / 600)


def test_seeds_that_disagree_widen_the_interval():
    random = np.random.default_rng(3)
    table = 0.1 * random.normal(size=(3, 200))
    apart = table + np.array([[-1.0], [0.0], [1.0]])
    assert crossed_mean(apart).error > 20 * crossed_mean(table).error
    assert crossed_mean(apart).df == pytest.approx(2.0, abs=0.1)


def test_linearised_ratio_has_the_ratio_as_its_mean():
    random = np.random.default_rng(4)
    top, bottom = random.random((2, 30)), random.integers(0, 5, (2, 30)).astype(float)
    groups = random.integers(0, 9, 30)
    for codes in (None, groups):
        table = linearised(top, bottom, codes)
        assert table.mean(axis=1) == pytest.approx(top.sum(axis=1) / bottom.sum(axis=1))
    assert table.shape == (2, len(set(groups)))


def test_copies_of_a_prompt_do_not_narrow_the_interval():
    values = np.random.default_rng(5).normal(size=(3, 20))
    once = crossed_mean(linearised(values, np.ones((3, 20))))
    copied = linearised(np.tile(values, 4), np.ones((3, 80)), np.tile(np.arange(20), 4))
    assert crossed_mean(copied).error == pytest.approx(once.error)


def test_equal_arms_differ_by_nothing():
    mean = crossed_mean(np.zeros((3, 10)))
    assert mean.value == 0.0 and mean.p == 1.0 and mean.interval() is not None
    assert (mean.interval().low, mean.interval().high) == (0.0, 0.0)


def test_one_example_has_no_interval():
    assert crossed_mean(np.ones((3, 1))).interval() is None


def test_detectable_difference_is_found_in_four_of_five():
    random = np.random.default_rng(6)
    truth = crossed_mean(random.normal(size=(3, 100))).detectable()
    found = 0
    for _ in range(400):
        bounds = crossed_mean(random.normal(size=(3, 100)) + truth).interval()
        found += not bounds.low <= 0.0 <= bounds.high
    # the noise of one experiment stands for all: the estimate of the error is off by some 5 %
    assert 0.7 < found / 400 < 0.93


@pytest.mark.parametrize(("spread", "stated"), [(0.0, 0.05), (0.3, 0.13)])
def test_equal_arms_get_a_false_verdict_no_more_often_than_the_docs_say(spread, stated):
    """Four arms that are one, six dependent measures: 18 comparisons, the share of reports with any verdict.

    Three seeds cannot estimate their own spread so far out in the tail: 5 % is kept only where examples vary.
    """
    random, families, compared = np.random.default_rng(7), 0, 3 * 6
    level = 1.0 - 0.05 / compared
    for _ in range(400):
        # what is shared by the measures of an arm and by the arms, through the first arm that all are compared with
        own, noise = random.normal(size=(4, 1, 3, 60)), random.normal(size=(4, 6, 3, 60))
        arms = own + noise + spread * random.normal(size=(4, 6, 3, 1))
        bounds = [crossed_mean(table).interval(level) for arm in arms[1:] for table in arm - arms[0]]
        families += any(not one.low <= 0.0 <= one.high for one in bounds)
    # two standard errors of a share of 400 above what docs/compare.md says
    assert families / 400 < stated + 2 * math.sqrt(stated * (1 - stated) / 400)
