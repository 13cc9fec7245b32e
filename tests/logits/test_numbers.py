"""The closed-form statistics, against SciPy where it has them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sftloss.logits.numbers import bootstrap, elasticity, midranks, pearson, slope, spearman

SMALL = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=40)


def columns(pairs):
    return tuple(torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))


@settings(max_examples=60, deadline=None)
@given(SMALL)
def test_correlations_are_those_of_scipy(pairs):
    stats = pytest.importorskip("scipy.stats")
    x, y = columns(pairs)
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        got = ours(x, y)
        if len(set(x.tolist())) == 1 or len(set(y.tolist())) == 1:
            assert (got.r, got.p, got.reason) == (None, None, "one of the two is constant")
        else:
            assert got.r == pytest.approx(float(theirs(x.numpy(), y.numpy())[0]), abs=1e-12)


def test_pearson_p_is_near_the_exact_one():
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, generator=generator)
    for strength in (0.0, 0.2, 0.4):
        y = strength * x + torch.randn(50, generator=generator)
        # Fisher's z is a normal approximation: good to the second digit at 50 observations
        assert pearson(x, y).p == pytest.approx(stats.pearsonr(x, y)[1], abs=0.01)


def test_correlation_of_too_few_or_broken_values_is_none_with_a_reason():
    """Tutorial flaw B9: two groups gave r = 0 with p = 0, "perfectly significant"."""
    assert pearson(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])).r is None
    assert "3 observations" in pearson(torch.zeros(0), torch.zeros(0)).reason
    nan = torch.tensor([1.0, float("nan"), 2.0, 3.0])
    assert pearson(nan, nan).r is None and spearman(nan, nan).r is None
    three = torch.tensor([1.0, 2.0, 3.0])
    assert pearson(three, three).r == pytest.approx(1) and pearson(three, three).p is None
    with pytest.raises(ValueError, match="one length"):
        pearson(three, nan)


def test_midranks_shares_ranks_among_ties():
    assert midranks(torch.tensor([5.0, 1.0, 5.0, 7.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_slope_of_resampled_weights_is_the_slope_of_the_repeated_data():
    x, y = torch.tensor([1.0, 2.0, 4.0, 7.0]), torch.tensor([1.0, 1.0, 5.0, 2.0])
    counts = torch.tensor([[2, 0, 1, 1], [4, 0, 0, 0]])
    got = slope(x, y, counts.double())
    repeat = torch.repeat_interleave(torch.arange(4), counts[0])
    assert got[0] == pytest.approx(float(slope(x[repeat], y[repeat])), abs=1e-12)
    assert bool(torch.isnan(got[1]))


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0])
def test_elasticity_finds_the_exponent_and_its_interval_covers_it(exponent):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 200, (300,), generator=generator).double()
    amounts = 3 * lengths**exponent * torch.exp(0.3 * torch.randn(300, generator=generator, dtype=torch.float64))
    got = elasticity(amounts, lengths)
    assert got.low < exponent < got.high
    assert got.high - got.low < 0.12  # 4 standard errors: 4 * 0.3 / (sqrt(300) * 0.9)
    assert elasticity(3 * lengths**exponent, lengths).value == pytest.approx(exponent, abs=1e-9)


def test_elasticity_without_an_answer_says_why():
    assert "3 examples" in elasticity(torch.ones(2), torch.ones(2)).reason
    assert elasticity(torch.rand(9), torch.full((9,), 7.0)).reason == "all lengths are equal"
    got = elasticity(torch.tensor([0.0, 1.0, 2.0, 4.0]), torch.tensor([1.0, 1.0, 2.0, 4.0]))
    assert got.value == pytest.approx(1.0) and got.n == 3 and got.reason.startswith("1 of 4 left out")


def test_bootstrap_is_repeatable_and_leaves_the_global_random_state_alone():
    values = torch.randn(50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    state = torch.random.get_rng_state()
    first = bootstrap(lambda w: w @ values / w.sum(1), 50)
    assert first == bootstrap(lambda w: w @ values / w.sum(1), 50)
    assert torch.equal(state, torch.random.get_rng_state())
    half = 1.96 * float(values.std()) / 50**0.5
    # the percentile interval of a mean is the normal one up to the noise of 1000 resamples
    assert first[1] - first[0] == pytest.approx(2 * half, rel=0.1)


def test_bootstrap_over_clusters_is_wider_than_over_their_repeated_observations():
    values = torch.randn(20, generator=torch.Generator().manual_seed(3), dtype=torch.float64).repeat_interleave(10)
    clusters = torch.arange(20).repeat_interleave(10)

    def mean(w):
        return w @ values / w.sum(1)

    naive, clustered = bootstrap(mean, 200), bootstrap(mean, 200, clusters=clusters)
    # ten equal copies: sqrt(10) times wider
    assert (clustered[1] - clustered[0]) / (naive[1] - naive[0]) == pytest.approx(10**0.5, rel=0.15)


def test_bootstrap_without_values_has_no_interval():
    assert bootstrap(lambda w: w[:, 0] * float("nan"), 5) == (None, None)
    assert bootstrap(lambda w: w[:, 0], 5, resamples=0) == (None, None)
