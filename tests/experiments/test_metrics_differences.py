"""Differences by resampling: the closed form where there is one, and the coverage that is promised."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sftloss.experiments.metrics import Gap, Ratio, paired_difference
from sftloss.experiments.metrics.differences import crossed_mean, linearised


def table(random, seeds: int, examples: int, spread: tuple[float, float, float]):
    """Differences with a part of the seed, of the example, and of both; true mean zero."""
    by_seed, by_example, by_both = spread
    parts = (seeds, 1), (1, examples), (seeds, examples)
    return sum(s * random.normal(size=shape) for s, shape in zip((by_seed, by_example, by_both), parts, strict=True))


def difference(values, bottom=None, groups=None, **options):
    bottom = np.ones(values.shape[1]) if bottom is None else bottom
    arms = [Ratio(line, bottom) for line in values], [Ratio(np.zeros(len(bottom)), bottom)] * len(values)
    return paired_difference(*arms, groups, **options)


@pytest.mark.parametrize("spread", [(0.0, 1.0, 0.1), (0.2, 1.0, 0.3), (0.0, 0.1, 1.0)])
@pytest.mark.parametrize("has_groups", [False, True])
def test_ratios_have_the_closed_forms_error(spread, has_groups):
    random = np.random.default_rng(0)
    values, bottom = table(random, 4, 300, spread), random.integers(1, 9, 300).astype(float)
    groups = random.integers(0, 90, 300) if has_groups else None
    ours = difference(values, bottom, groups, replicates=2000)
    closed = crossed_mean(linearised(values, np.stack([bottom] * 4), groups))
    assert ours.value == pytest.approx(closed.value, abs=1e-12)
    # an error from 2000 replicates has a relative standard error of 1.6 %, and Poisson counts a ratio's second order
    assert ours.error == pytest.approx(closed.error, rel=0.08) and ours.seeds == 4


@pytest.mark.parametrize("spread", [(0.0, 1.0, 0.1), (0.1, 0.3, 0.3), (0.1, 0.0, 0.1)])
def test_an_interval_over_three_seeds_covers_the_truth(spread):
    """300 experiments, 95 %: a standard error of 1.3 points, three of them below."""
    random, covered = np.random.default_rng(1), 0
    for _ in range(300):
        found = difference(table(random, 3, 60, spread), replicates=100)
        covered += found.interval().low <= 0.0 <= found.interval().high
    assert covered / 300 > 0.95 - 3 * 0.013


def test_an_interval_of_a_calibration_error_covers_the_truth():
    """Two arms 0.1 and 0.3 too confident in one bin: the true difference of their calibration errors is 0.2."""
    random, covered = np.random.default_rng(2), 0
    for _ in range(200):
        is_right = (random.random((3, 80, 5)) < 0.5).astype(float)
        arms = [
            [Gap((0.5 + excess - line).sum(axis=1, keepdims=True), np.full(80, 5.0)) for line in is_right]
            for excess in (0.3, 0.1)
        ]
        # the same answers, so the difference itself is certain but where the smaller gap changes sign
        arms[1] = [Gap(gap.gap + random.normal(0, 0.5, (80, 1)), gap.size) for gap in arms[1]]
        found = paired_difference(*arms, replicates=100)
        covered += found.interval().low <= 0.2 <= found.interval().high
    assert covered / 200 > 0.95 - 3 * 0.016


def test_examples_that_share_a_prompt_are_one_draw():
    """Copies are no evidence: ten of each example leave the error where it was."""
    random = np.random.default_rng(3)
    values = table(random, 1, 50, (0.0, 1.0, 0.0))
    once = difference(values, replicates=1000)
    copies = difference(np.repeat(values, 10, axis=1), groups=np.repeat(np.arange(50), 10), replicates=1000)
    naive = difference(np.repeat(values, 10, axis=1), replicates=1000)
    assert copies.error == pytest.approx(once.error, rel=1e-9)  # the same draws
    assert naive.error < 0.4 * once.error


def test_too_little_data_has_no_error():
    assert np.isnan(difference(np.ones((3, 1))).error)
    assert np.isnan(difference(np.ones((1, 3)), np.array([1.0, 0.0, 0.0])).error)  # a third of the draws is empty
    assert difference(np.ones((2, 5))).error == 0.0


def test_other_seeds_or_rows_are_refused():
    one, two = Ratio(np.ones(3), np.ones(3)), Ratio(np.ones(4), np.ones(4))
    with pytest.raises(ValueError, match="paired_difference: 1 and 2 seeds"):
        paired_difference([one], [one, one])
    with pytest.raises(ValueError, match="same held-out rows"):
        paired_difference([one], [two])


def test_examples_that_agree_have_no_skewness():
    """Seeds differ and examples do not: the interval is of the seeds alone."""
    mean = crossed_mean(np.array([[2.0, 2.0], [0.5, 0.5]]))
    assert mean.value == 1.25 and mean.parts[0].skewness == 0.0 and math.isfinite(mean.interval().low)
