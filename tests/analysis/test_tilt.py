"""The length that a normalisation teaches: identities, brute force, and the numbers that training confirmed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from sftloss.analysis import _tilt as tilt
from sftloss.analysis._tilt import EXAMPLE_MEAN, SQRT, TOKEN_MEAN, Lengths, micro_batch_mean, predict

UNIFORM = np.arange(2.0, 16.0)  # lengths 2 to 15, equally likely


def unconditional(lengths, normalisation):
    return tilt.mean_length(lengths, tilt.sequence_weights(lengths, normalisation))


@pytest.mark.parametrize(
    "normalisation, learned",
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
def test_tilt_is_what_training_learned(normalisation, learned):
    # the means that trained networks reached, two seeds each: they scatter by about 0.01
    assert unconditional(UNIFORM, normalisation) == pytest.approx(learned, abs=0.012)


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
    for normalisation in (TOKEN_MEAN, EXAMPLE_MEAN, SQRT, micro_batch_mean(3)):
        weights = tilt.sequence_weights([0.0, 2.0, 4.0], normalisation)
        assert weights[0] == 0 and np.isfinite(weights).all() and (weights[1:] > 0).all()


def test_only_variation_given_the_prompt_tilts():
    lengths, prompts = np.array([2.0, 8.0, 20.0, 20.0]), np.array([1, 1, 2, 3])
    weights = tilt.sequence_weights(lengths, EXAMPLE_MEAN)
    # the pair under prompt 1 has harmonic mean 3.2, the other prompts have one length each
    assert tilt.within_groups(lengths, weights, prompts) == pytest.approx((2 * 3.2 + 20 + 20) / 4)
    assert tilt.within_groups(lengths, weights, np.arange(4)) == pytest.approx(lengths.mean())
    assert tilt.within_groups(lengths, weights, np.zeros(4)) == pytest.approx(stats.hmean(lengths))
    assert tilt.conflicting(lengths, prompts).tolist() == [True, True, False, False]
    assert tilt.conflicting([20.0, 20.0], [5, 5]).tolist() == [False, False]


def test_prediction_does_not_depend_on_row_order_and_covers_its_value():
    rng = np.random.default_rng(4)
    size = rng.integers(1, 60, 120).astype(float)
    order = rng.permutation(120)
    ids, prompts = np.arange(120), rng.integers(0, 40, 120)
    one = predict(Lengths(ids, size, size, prompts, prompts % 3), EXAMPLE_MEAN)
    two = predict(Lengths(ids[order], size[order], size[order], prompts[order], prompts[order] % 3), EXAMPLE_MEAN)
    assert one.unconditional.value == pytest.approx(two.unconditional.value, rel=1e-12)
    assert one.unconditional.interval.low == pytest.approx(two.unconditional.interval.low, rel=1e-12)
    assert one.unconditional.interval.low < one.unconditional.value < one.unconditional.interval.high
    assert one.unconditional.value < one.within_task < one.within_prompt < size.mean()
    weights = 1 / size
    assert one.effective_examples == pytest.approx(weights.sum() ** 2 / (weights**2).sum())


def test_a_size_other_than_the_output_divides_by_the_size():
    """A prompt that is trained counts in T, not in the answer's length."""
    lengths = Lengths(np.arange(2), np.array([10.0, 40.0]), np.array([5.0, 6.0]))
    assert predict(lengths, EXAMPLE_MEAN).unconditional.value == pytest.approx((5 / 10 + 6 / 40) / (1 / 10 + 1 / 40))


@pytest.mark.parametrize("alpha", [-0.7, 0.0, 0.5, 1.0, 3.0])
def test_alpha_for_mean_is_the_inverse_of_the_prediction(alpha):
    lengths = np.random.default_rng(1).integers(1, 300, 200)
    target = unconditional(lengths, tilt.Normalisation("x", alpha))
    assert tilt.alpha_for_mean(lengths, target) == pytest.approx(alpha, abs=1e-9)


@pytest.mark.parametrize("target", [1.0, 15.0, 99.0])
def test_alpha_for_mean_is_nan_where_no_exponent_reaches(target):
    assert np.isnan(tilt.alpha_for_mean(UNIFORM, target))
    assert np.isnan(tilt.alpha_for_mean([4.0, 4.0], target))


def test_lengths_say_when_the_data_cannot_tell():
    ids, size = np.arange(60), np.arange(1.0, 61.0)
    assert "no prompt" in Lengths(ids, size, size, ids).cannot_tell()
    assert "no prompt" in Lengths(ids, size, size).cannot_tell()
    assert "fewer than 30" in Lengths(ids[:9], size[:9], size[:9], ids[:9] // 2).cannot_tell()
    assert Lengths(ids, size, size, ids // 2).cannot_tell() == ""


def test_a_micro_batch_of_no_sequences_is_refused():
    with pytest.raises(ValueError, match="micro_batch must be at least 1, got 0"):
        micro_batch_mean(0)
