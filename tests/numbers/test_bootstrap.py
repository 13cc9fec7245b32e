"""The bootstrap draws by example: the same whatever the order or the chunks, and its intervals cover the truth."""

from __future__ import annotations

import numpy as np
import pytest

from sftloss.numbers import GroupSums, elasticity, interval, poisson_weights, ratio_interval


def test_poisson_weights_have_the_moments_of_poisson_one():
    weights = poisson_weights(np.arange(500), 1000).astype(float)
    # standard errors over 500,000 draws: mean 0.0014, variance 0.0025, both times 4
    assert weights.mean() == pytest.approx(1.0, abs=0.006)
    assert weights.var() == pytest.approx(1.0, abs=0.010)
    assert (weights == 0).mean() == pytest.approx(np.exp(-1), abs=0.003)


def test_poisson_weights_of_neighbouring_ids_and_replicates_are_uncorrelated():
    weights = poisson_weights(np.arange(500), 1000).astype(float)
    for a, b in ((weights[1:], weights[:-1]), (weights[:, 1:], weights[:, :-1]), (weights[4:], weights[:-4])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.006  # 4 standard errors


def test_poisson_weights_depend_on_id_and_seed_alone():
    ids = np.array([7, 99, -3, 2**40])
    together = poisson_weights(ids, 50, seed=1)
    for column, one in enumerate(ids):
        np.testing.assert_array_equal(poisson_weights(np.array([one]), 50, seed=1)[:, 0], together[:, column])
    assert (poisson_weights(ids, 50, seed=2) != together).any()
    np.testing.assert_array_equal(poisson_weights(ids, 13, seed=1), together[:13])


def test_group_sums_do_not_depend_on_order_or_chunks():
    rng = np.random.default_rng(0)
    ids, groups, values = rng.integers(0, 300, 3000), rng.integers(0, 4, 3000), rng.normal(size=(3000, 2))
    whole = GroupSums(4, 2, replicates=40).add(ids, values, groups)
    order = rng.permutation(3000)
    parts = GroupSums(4, 2, replicates=40)
    for rows in np.array_split(order, 7):
        parts.add(ids[rows], values[rows], groups[rows])
    # rounding of sums of about 3000 terms of size 1 in another order
    np.testing.assert_allclose(parts.replicates, whole.replicates, atol=1e-10)
    np.testing.assert_allclose(parts.total, whole.total, atol=1e-10)


def test_group_sums_are_weighted_sums_by_hand():
    ids, groups = np.array([5, 6, 5]), np.array([0, 1, 1])
    sums = GroupSums(2, 1, replicates=8).add(ids, np.array([[1.0], [10.0], [100.0]]), groups)
    five, six = poisson_weights(np.array([5, 6]), 8).astype(float).T
    np.testing.assert_allclose(sums.replicates[:, 0, 0], five)
    np.testing.assert_allclose(sums.replicates[:, 1, 0], 10 * six + 100 * five)
    assert sums.total.ravel().tolist() == [1.0, 110.0]


def test_two_groupings_share_their_replicates():
    ids, values = np.arange(100), np.linspace(0, 1, 100)[:, None]
    by_two = GroupSums(2, 1, replicates=30).add(ids, values, ids % 2)
    by_five = GroupSums(5, 1, replicates=30).add(ids, values, ids % 5)
    np.testing.assert_allclose(by_two.replicates.sum(1), by_five.replicates.sum(1), rtol=1e-12)


def test_interval_is_none_where_replicates_are_mostly_undefined():
    assert interval(np.r_[np.full(100, np.nan), np.ones(900)]) is None
    assert interval(np.linspace(0, 1, 1001)).low == pytest.approx(0.025)
    assert ratio_interval(np.ones(50), np.zeros(50)) is None


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Elasticity 0.5 and a group's share 2/3, 200 data sets of 80 examples: both in about 95 of 100 intervals."""
    rng = np.random.default_rng(11)
    ids = np.arange(80)
    covered = np.zeros(2)
    for trial in range(200):
        lengths = rng.integers(2, 60, 80).astype(float)
        signal = lengths**0.5 * rng.lognormal(sigma=0.5, size=80)
        found = elasticity(lengths, signal, ids, replicates=200, seed=trial).interval
        group = rng.integers(0, 2, 80)
        size = rng.exponential(size=80) * (1 + group)
        share = GroupSums(2, 1, replicates=200, seed=trial).add(ids, size[:, None], group).shares()[1][:, 1, 0]
        covered += [found.low <= 0.5 <= found.high, interval(share).low <= 2 / 3 <= interval(share).high]
    # percentile intervals of 80 examples cover a little less than 95 %; 4 standard errors of 200 trials are 0.06
    assert (covered / 200 > 0.87).all() and (covered / 200 < 0.995).all()
