"""Trends are said only where the data can tell. Tutorial flaws S34 and 18."""

from __future__ import annotations

import math

import pytest
import torch

from sftloss.tasks import trend


def noisy(slope: float, count: int = 60, noise: float = 0.05, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.exp(slope * torch.arange(count) + noise * torch.randn(count, generator=generator))


def test_five_observations_are_too_few():
    assert trend(noisy(-0.1, count=5)).name == "insufficient data"
    assert trend(noisy(-0.1, count=19)).name == "insufficient data"
    assert trend(noisy(-0.1, count=20)).name == "decreasing"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_small_loss_that_falls_is_decreasing(scale):
    """The tutorial's threshold of 0.01 was absolute: a fall of 5 % at a loss of 0.1 was called stable."""
    found = trend(noisy(-0.01) * scale)
    assert found.name == "decreasing"
    assert found.slope == pytest.approx(-0.01, abs=1e-3)
    assert trend(noisy(0.01) * scale).name == "increasing"


def test_a_loss_that_is_not_finite_has_diverged():
    values = noisy(-0.01)
    values[-3] = math.nan
    assert trend(values).name == "diverged"
    assert trend(torch.tensor([1.0, math.inf])).name == "diverged"


def test_noise_is_a_trend_as_often_as_the_level_says():
    """5 % of 400 is 20; the interval is four standard errors."""
    found = sum(trend(noisy(0.0, count=30, seed=seed)).name != "no trend" for seed in range(400))
    assert 3 <= found <= 38


@pytest.mark.parametrize(("count", "most"), [(30, 0.16), (60, 0.11)])
@pytest.mark.parametrize("correlation", [0.3, 0.5, 0.8])
def test_correlated_noise_is_hardly_more_often_a_trend(count, most, correlation):
    """Without the correction 24 % at a correlation of 0.5. 12 % and 7 % are stated; three standard errors of 400."""
    generator, found = torch.Generator().manual_seed(1), 0
    for _ in range(400):
        noise = torch.randn(count + 40, generator=generator, dtype=torch.float64)
        for i in range(1, len(noise)):
            noise[i] += correlation * noise[i - 1]
        found += trend(torch.exp(0.05 * noise[40:])).name != "no trend"
    assert found / 400 <= most


def test_p_agrees_with_kendalls_tau():
    stats = pytest.importorskip("scipy.stats")
    values = noisy(-0.002, count=40)
    ours = trend(values).p
    theirs = stats.kendalltau(range(40), values.numpy(), method="asymptotic").pvalue
    # ours has the correction for continuity, theirs has not: one step of S in about 85
    assert ours == pytest.approx(theirs, rel=0.1)


def test_constant_and_negative_losses_have_answers():
    assert trend(torch.ones(30)).name == "no trend"
    assert trend(-noisy(0.02)).name == "decreasing"
