"""The length that a normalization teaches: identities, brute force, and the numbers that training confirmed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from sftloss.analysis.lengths import tilt
from sftloss.weights import EXAMPLE_MEAN, SQRT, TOKEN_MEAN, micro_batch_mean

UNIFORM = np.arange(2.0, 16.0)  # lengths 2 to 15, equally likely


def unconditional(lengths, normalization):
    return np.average(lengths, weights=tilt.sequence_weights(lengths, normalization))


@pytest.mark.parametrize(
    "normalization, learned",
    [
        (TOKEN_MEAN, 8.493),
        (EXAMPLE_MEAN, 6.034),
        (SQRT, 7.281),
        (micro_batch_mean(1), 6.034),
        (micro_batch_mean(2), 7.315),
        (micro_batch_mean(4), 7.963),
        (micro_batch_mean(32), 8.433),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_tilt_is_what_training_learned(normalization, learned):
    # the means that trained networks reached, two seeds each: they scatter by about 0.01
    assert unconditional(UNIFORM, normalization) == pytest.approx(learned, abs=0.012)


def test_tilt_of_the_example_mean_is_the_harmonic_mean():
    lengths = np.random.default_rng(0).integers(1, 500, 100)
    assert unconditional(lengths, EXAMPLE_MEAN) == pytest.approx(stats.hmean(lengths), rel=1e-12)
    assert unconditional(lengths, TOKEN_MEAN) == pytest.approx(lengths.mean(), rel=1e-12)


@pytest.mark.parametrize("sequences", [1, 2, 3, 4])
@pytest.mark.parametrize("lengths", [[1.0, 3.0, 3.0, 8.0], [0.25, 7.5, 4000.0]])
def test_micro_batch_weights_are_those_of_enumeration(lengths, sequences):
    others = [sum(draw) for draw in itertools.product(lengths, repeat=sequences - 1)]
    expected = [np.mean([1.0 / (length + rest) for rest in others]) for length in lengths]
    # the quadrature's own error, measured below 1e-12
    np.testing.assert_allclose(tilt.sequence_weights(lengths, micro_batch_mean(sequences)), expected, rtol=1e-10)


def test_micro_batch_token_means_grow_towards_the_token_mean():
    means = [unconditional(UNIFORM, micro_batch_mean(k)) for k in (1, 2, 8, 64, 4096)]
    assert means == sorted(means)
    assert means[0] == pytest.approx(stats.hmean(UNIFORM)) and means[-1] == pytest.approx(8.5, abs=2e-3)


def test_sequence_weights_of_an_empty_sequence_are_zero():
    for normalization in (TOKEN_MEAN, EXAMPLE_MEAN, SQRT, micro_batch_mean(3)):
        weights = tilt.sequence_weights([0.0, 2.0, 4.0], normalization)
        assert weights[0] == 0 and np.isfinite(weights).all() and (weights[1:] > 0).all()


def test_prompts_with_answers_of_several_lengths_are_found():
    lengths, prompts = np.array([2.0, 8.0, 20.0, 20.0]), np.array([1, 1, 2, 3])
    assert tilt.conflicting(lengths, prompts).tolist() == [True, True, False, False]
    assert tilt.conflicting([20.0, 20.0], [5, 5]).tolist() == [False, False]


def test_a_micro_batch_of_no_sequences_is_refused():
    with pytest.raises(ValueError, match="micro_batch must be at least 1, got 0"):
        micro_batch_mean(0)
