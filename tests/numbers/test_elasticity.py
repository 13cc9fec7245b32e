"""The exponent of signal in length: the quasi-likelihood's, with zeros and growing noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from sftloss.numbers import BAD_FIT, elasticity, misfit

rng = np.random.default_rng(3)
X = rng.integers(1, 60, 200).astype(float)  # with ties
Y = X**0.5 * rng.lognormal(size=200)
IDS = np.arange(200)


def test_elasticity_is_the_gamma_quasi_likelihoods_with_a_log_link():
    def deviance(b):
        eta = b[0] + b[1] * np.log(X)
        return float(np.mean(Y * np.exp(-eta) + eta))

    best = minimize(deviance, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14}).x
    assert elasticity(X, Y, IDS).value == pytest.approx(best[1], abs=1e-6)  # Nelder-Mead ends at 1e-9 in b, not better


def test_elasticity_of_a_power_law_is_its_exponent_and_the_law_fits():
    estimate = elasticity(X, 5 * X**0.7, IDS)
    assert estimate.value == pytest.approx(0.7, rel=1e-10) and misfit(X, 5 * X**0.7, estimate.value) < 1e-9
    assert estimate.interval.low == pytest.approx(0.7, rel=1e-8)


@pytest.mark.parametrize("exponent", [-30.0, 30.0])
def test_elasticity_of_a_steep_law_is_found(exponent):
    assert elasticity(X, X**exponent, IDS).value == pytest.approx(exponent, rel=1e-9)


def test_dividing_by_length_to_the_elasticity_leaves_none():
    value = elasticity(X, Y, IDS).value
    assert elasticity(X, Y / X**value, IDS).value == pytest.approx(0.0, abs=1e-9)


def test_examples_without_signal_count_as_they_are():
    """Half of the long examples without any signal: on the mean, long ones have half of what they had."""
    lengths = np.repeat([4.0, 16.0], 100)
    signal = np.where(np.arange(200) >= 150, 0.0, lengths)
    assert elasticity(lengths, signal, IDS).value == pytest.approx(0.5)


def test_one_tiny_signal_does_not_decide_the_elasticity():
    """A signal of 1e-9 is as good as none: a slope of logarithms would tell them apart."""
    signal = np.where(X.max() == X, 1e-9, X)
    assert elasticity(X, signal, IDS).value == pytest.approx(elasticity(X, np.where(X.max() == X, 0, X), IDS).value)


@pytest.mark.parametrize("lengths, reason", [([3.0] * 50, "same length"), ([1.0, 2.0], "has 2")])
def test_elasticity_says_why_it_is_undefined(lengths, reason):
    estimate = elasticity(lengths, lengths, np.arange(len(lengths)))
    assert np.isnan(estimate.value) and estimate.interval is None and reason in estimate.reason
    assert np.isnan(misfit(lengths, lengths, estimate.value))


def test_signal_of_the_longest_alone_has_no_elasticity():
    assert np.isnan(elasticity(X, (X.max() == X) * 1.0, IDS).value)


def test_noise_is_no_bad_fit_and_a_bend_is_one():
    assert misfit(X, Y, elasticity(X, Y, IDS).value) < BAD_FIT
    bent = np.where(X < 30, X, 30 * (30 / X) ** 2)  # grows up to 30, then falls
    assert misfit(X, bent, elasticity(X, bent, IDS).value) > BAD_FIT


def test_sums_in_proportion_to_length_have_elasticity_one_where_a_slope_of_logarithms_has_two():
    """Short examples that are mostly known: their few hard ones hold as much as their part, the median far less."""
    lengths = np.repeat([10.0, 100.0], 200)
    easy = np.where(lengths == 10, 0.1, 10.0)  # the median example: 100 times the signal at 10 times the length
    signal = easy.copy()
    for size in (10.0, 100.0):
        rows = np.flatnonzero(lengths == size)
        signal[rows[0]] += size * len(rows) - easy[rows].sum()
    assert elasticity(lengths, signal).value == pytest.approx(1.0)
    slope = np.polyfit(np.log(lengths), np.log(signal), 1)[0]
    assert slope == pytest.approx(2.0, abs=0.02)
