"""The statistics agree with scipy, or with a hand calculation where scipy has none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from sftloss import numbers

rng = np.random.default_rng(3)
X = rng.integers(1, 12, 200).astype(float)  # with ties
Y = X**0.5 * rng.lognormal(size=200)


def test_pearson_and_spearman_are_scipys():
    # 1e-12: the same float64 sums in another order
    for ours, theirs in (
        (numbers.pearson(X, Y), stats.pearsonr(X, Y)),
        (numbers.spearman(X, Y), stats.spearmanr(X, Y)),
    ):
        assert (ours.r, ours.p) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-12)
        assert (ours.n, ours.reason) == (200, "")


def test_correlation_of_too_few_or_broken_values_has_a_reason():
    """Two groups once gave r = 0 with p = 0, "perfectly significant"."""
    assert "3 observations" in numbers.pearson([1.0, 2.0], [1.0, 2.0]).reason
    broken = numbers.spearman([1.0, np.nan, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0])
    assert np.isnan(broken.r) and "NaN" in broken.reason and broken.plain()["r"] is None
    with pytest.raises(ValueError, match="one length"):
        numbers.pearson([1.0, 2.0, 3.0], [1.0, 2.0])


@pytest.mark.parametrize("constant", [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
def test_correlation_with_a_constant_is_nan_not_zero(constant):
    assert np.isnan(numbers.pearson(constant, [1.0, 2.0, 3.0]).r)
    assert np.isnan(numbers.spearman([1.0, 2.0, 3.0], constant).r)


def test_partial_spearman_is_the_textbook_formula():
    z = X + rng.normal(size=200)
    xy, xz, yz = (stats.spearmanr(*pair).statistic for pair in ((X, Y), (X, z), (Y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert numbers.partial_spearman(X, Y, z) == pytest.approx(expected, rel=1e-9)


def test_partial_spearman_given_the_same_variable_is_nan():
    assert np.isnan(numbers.partial_spearman(X, Y, X))


def test_partial_spearman_removes_group_means():
    group = np.repeat([0, 1], 100)
    x = np.arange(100.0)[np.r_[0:100, 0:100]] + 1000 * group
    difficulty = rng.normal(size=200)
    within = rng.permutation(100).astype(float)
    y = np.concatenate([within, within]) + 1000 * group
    assert numbers.spearman(x, y).r > 0.7  # only because the groups differ
    assert abs(numbers.partial_spearman(x, y, difficulty, group)) < 0.35


def test_gini_is_known_at_its_ends():
    assert numbers.gini([2.0, 2.0, 2.0]) == pytest.approx(0.0, abs=1e-15)
    assert numbers.gini([0.0, 0.0, 0.0, 5.0]) == pytest.approx(0.75)
    brute = np.abs(Y[:, None] - Y[None, :]).mean() / (2 * Y.mean())
    assert numbers.gini(Y) == pytest.approx(brute, rel=1e-12)


def test_concentration_has_its_two_anchors():
    assert numbers.kakwani(3.0 * X, X) == pytest.approx(0.0, abs=1e-14)
    assert numbers.concentration_index(np.ones(200), X) == pytest.approx(0.0, abs=1e-14)
    assert numbers.kakwani(np.ones(200), X) == pytest.approx(-numbers.gini(X), rel=1e-12)
    assert np.isnan(numbers.concentration_index(np.zeros(4), np.arange(4.0)))


def test_concentration_curve_encloses_the_concentration_index():
    x, y = numbers.concentration_curve(Y, X, points=1000)
    assert (x[0], y[0], x[-1], y[-1]) == pytest.approx((0, 0, 1, 1))
    assert 1 - 2 * integrate.trapezoid(y, x) == pytest.approx(numbers.concentration_index(Y, X), rel=1e-10)


def test_concentration_curve_does_not_depend_on_row_order():
    order = rng.permutation(200)
    for a, b in zip(numbers.concentration_curve(Y, X), numbers.concentration_curve(Y[order], X[order]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)  # sums in another order


def test_kish_ess_counts_equal_examples_and_one_giant():
    assert numbers.kish_ess(np.full(7, 3.0)) == pytest.approx(7)
    assert numbers.kish_ess([0, 0, 9.0]) == pytest.approx(1)
    assert np.isnan(numbers.kish_ess([0.0, 0.0]))


def test_top_share_counts_parts_of_examples():
    assert numbers.top_share([1, 1, 1, 7], 0.25) == pytest.approx(0.7)
    assert numbers.top_share([1, 1, 1, 7], 0.125) == pytest.approx(0.35)
    assert numbers.top_share([4, 6], 1.0) == pytest.approx(1.0)
    assert np.isnan(numbers.top_share([0, 0], 0.5))


def test_weighted_quantile_is_the_quantile_of_repeated_values():
    values, counts = np.array([5.0, 1.0, 3.0]), np.array([2, 5, 3])
    repeated = np.repeat(values, counts)
    probabilities = np.linspace(0.05, 1, 20)
    expected = np.quantile(repeated, probabilities, method="inverted_cdf")
    np.testing.assert_array_equal(numbers.weighted_quantile(values, counts, probabilities), expected)


def test_quantile_bins_keep_equal_values_together():
    codes, bounds = numbers.quantile_bins(X, 10)
    assert len(bounds) == codes.max() + 1
    for value in np.unique(X):
        assert len(set(codes[value == X])) == 1
    assert all(a[1] < b[0] for a, b in zip(bounds, bounds[1:], strict=False))
    assert numbers.quantile_bins(np.arange(1000.0), 10)[0].tolist() == (np.arange(1000) // 100).tolist()


def test_theil_sen_is_scipys_and_ignores_an_outlier():
    x, y = np.log(X[:60]), np.log(Y[:60])
    assert numbers.theil_sen(x, y) == pytest.approx(stats.theilslopes(y, x).slope)
    line = np.arange(50.0)
    assert numbers.theil_sen(line, np.where(line == 7, 1e6, 2 * line)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "lengths, reason",
    [
        (np.arange(1, 20), "fewer than 30"),
        (np.tile([1, 9], 50), "distinct"),
        (np.arange(100, 150), "hardly vary"),
        (np.arange(1, 100), ""),
    ],
)
def test_cannot_tell_names_what_is_missing(lengths, reason):
    assert reason in numbers.cannot_tell(lengths) and bool(reason) == bool(numbers.cannot_tell(lengths))


@pytest.mark.parametrize("df", [1.0, 1.5, 2.0, 7.3, 1e5])
def test_t_quantile_is_two_sided(df):
    assert numbers.t_quantile(0.95, df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-9)
