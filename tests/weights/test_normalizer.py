"""One normalizer a step: additive over any split, never NaN, and not a mean of means."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sftloss.weights import (
    coefficients,
    group_coefficients,
    group_normalizers,
    length_weights,
    normalizer,
    validate_weights,
)

LENGTHS = st.lists(st.integers(1, 9), min_size=2, max_size=8)
ADDITIVE = ("weights", "sequences", "tokens")


def draw(lengths, seed):
    """Weights, segments, losses and groups of a step, one list entry a sequence."""
    generator = torch.Generator().manual_seed(seed)
    sequences = []
    for index, length in enumerate(lengths):
        weights = torch.rand(length, generator=generator, dtype=torch.float64) + 0.1
        weights = torch.where(torch.rand(length, generator=generator) < 0.4, 0.0, weights)
        losses = torch.randn(length, generator=generator, dtype=torch.float64)
        group = int(torch.randint(0, 3, (), generator=generator))
        sequences.append((weights, torch.full((length,), index), losses, torch.full((length,), group)))
    return sequences


def joined(sequences):
    return tuple(torch.cat(parts) for parts in zip(*sequences, strict=True))


def split(sequences, cuts):
    edges = sorted({0, len(sequences), *(cut % len(sequences) for cut in cuts)})
    return [sequences[a:b] for a, b in zip(edges, edges[1:], strict=False)]


@pytest.mark.parametrize("by", ADDITIVE)
@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 999), cuts=st.lists(st.integers(0, 7), max_size=3))
def test_normalizer_makes_micro_batches_equal_one_batch(by, lengths, seed, cuts):
    sequences = draw(lengths, seed)
    weights, segments, losses, _ = joined(sequences)
    u = length_weights(weights, segments, alpha=0.5)
    whole = (coefficients(u, normalizer(u, segments, by=by)) * losses).sum()

    parts = [joined(part) for part in split(sequences, cuts)]
    us = [length_weights(w, s, alpha=0.5) for w, s, _, _ in parts]
    total = sum(normalizer(u, s, by=by) for u, (_, s, _, _) in zip(us, parts, strict=True))
    pieces = sum((coefficients(u, total) * loss).sum() for u, (_, _, loss, _) in zip(us, parts, strict=True))
    # float64: only the order of addition differs
    assert_close(pieces, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("by", ADDITIVE)
def test_normalizer_mean_of_means_is_a_different_loss(by):
    """Negative control: what the law above would not see if every split gave the same number anyhow."""
    weights, segments = torch.ones(10), torch.tensor([0] * 9 + [1])
    losses = torch.tensor([1.0] * 9 + [5.0])
    halves = [slice(0, 9), slice(9, 10)]
    u = length_weights(weights, segments, alpha=0.5)
    whole = (coefficients(u, normalizer(u, segments, by=by)) * losses).sum()
    means = [(coefficients(u[h], normalizer(u[h], segments[h], by=by)) * losses[h]).sum() for h in halves]
    if by == "sequences":  # the mean over equally many sequences agrees, a bare sum of the means does not
        assert_close(sum(means) / 2, whole)
    else:
        assert abs(sum(means) / 2 - whole) > 0.5
    assert abs(sum(means) - whole) > 0.5


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 999))
def test_normalizer_counts_what_its_name_says(lengths, seed):
    weights, segments, _, _ = joined(draw(lengths, seed))
    padded, ids = torch.cat([weights, torch.ones(3)]), torch.cat([segments, torch.full((3,), -1)])
    assert_close(normalizer(padded, ids, by="weights"), weights.sum())
    assert int(normalizer(padded, ids, by="tokens")) == int((weights != 0).sum())
    assert int(normalizer(padded, ids, by="sequences")) == len(set(segments[weights != 0].tolist()))


def test_normalizer_counts_beyond_the_integers_of_float32():
    assert normalizer(torch.ones(4), torch.arange(4)).dtype == torch.float64


def test_normalizer_constant_adds_up_to_the_constant():
    weights, segments = torch.ones(2), torch.arange(2)
    parts = [normalizer(weights, segments, by="constant", constant=512.0, parts=3) for _ in range(3)]
    assert_close(sum(parts), torch.tensor(512.0, dtype=torch.float64))


@pytest.mark.parametrize(
    "arguments",
    [
        {"by": "constant"},
        {"by": "constant", "constant": 5.0},
        {"by": "constant", "constant": 0.0, "parts": 1},
        {"by": "constant", "constant": 5.0, "parts": 0},
        {"by": "tokens", "constant": 5.0},
        {"by": "mean"},
    ],
)
def test_normalizer_refuses_arguments_that_do_not_belong_together(arguments):
    with pytest.raises(ValueError, match="normalizer"):
        normalizer(torch.ones(1), torch.zeros(1, dtype=torch.int64), **arguments)


def test_normalizer_by_weights_refuses_negative_weights_and_counts_take_them():
    weights, segments = torch.tensor([1.0, -0.5]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="signed rewards"):
        normalizer(weights, segments, by="weights")
    with pytest.raises(ValueError, match="negative"):
        validate_weights(weights)
    assert int(normalizer(weights, segments, by="sequences")) == 2
    assert int(normalizer(weights, segments, by="tokens")) == 2
    validate_weights(weights, by="tokens")
    with pytest.raises(ValueError, match="NaN"):
        validate_weights(torch.tensor([float("nan")]), by="tokens")


def test_normalizer_and_coefficients_do_not_read_values_off_the_device():
    """On the meta device every read of a value raises, as it would wait on a GPU."""
    weights, segments = torch.ones(4, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
    for by in ADDITIVE:
        assert coefficients(weights, normalizer(weights, segments, by=by)).shape == (4,)
    groups = group_normalizers(weights, segments, count=2, by="sequences", segments=segments)
    factors = torch.ones(2, device="meta")
    assert group_coefficients(weights, segments, groups, factors).shape == (4,)


def test_coefficients_of_a_total_of_zero_are_zero_not_nan():
    for total in (0, 0.0, torch.tensor(0.0), torch.tensor([0])):
        assert coefficients(torch.zeros(3), total).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("total", [-1.0, float("nan"), float("inf"), torch.ones(2)])
def test_coefficients_refuses_a_total_that_is_not_one_number(total):
    with pytest.raises(ValueError, match="coefficients: total"):
        coefficients(torch.ones(2), total)


def test_coefficients_keeps_the_dtype_and_divides_before_rounding():
    # 65535 overflows in float16 where the total would become inf and every coefficient 0
    got = coefficients(torch.ones(1, dtype=torch.float16), torch.tensor(70000.0, dtype=torch.float64))
    assert got.dtype == torch.float16
    assert_close(got, torch.tensor([1 / 70000], dtype=torch.float16))


@pytest.mark.parametrize("by", ADDITIVE)
@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 999), cuts=st.lists(st.integers(0, 7), max_size=3))
def test_group_normalizers_is_the_normalizer_of_each_group_and_adds_up(by, lengths, seed, cuts):
    sequences = draw(lengths, seed)
    weights, segments, _, groups = joined(sequences)
    whole = group_normalizers(weights, groups, count=4, by=by, segments=segments)
    for group in range(4):
        of_group = groups == group
        expected = normalizer(weights[of_group], segments[of_group], by=by)
        assert_close(whole[group], expected, rtol=1e-12, atol=1e-12)
    parts = [joined(part) for part in split(sequences, cuts)]
    total = sum(group_normalizers(w, g, count=4, by=by, segments=s) for w, s, _, g in parts)
    assert_close(total, whole, rtol=1e-12, atol=1e-12)


def test_group_normalizers_counts_a_sequence_in_each_group_it_has_weight_in():
    """Groups may divide a sequence, as roles do; a weightless token puts its sequence nowhere."""
    groups, segments = torch.tensor([0, 0, 1, 1, 2, 1]), torch.tensor([0, 0, 0, 1, 1, -1])
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    got = group_normalizers(weights, groups, count=3, by="sequences", segments=segments)
    assert got.tolist() == [1, 2, 0]


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.integers(0, 999))
def test_group_coefficients_gives_the_weighted_sum_of_group_means(lengths, seed):
    weights, segments, losses, groups = joined(draw(lengths, seed))
    factors = torch.tensor([0.2, 1.0, 3.0, 100.0], dtype=torch.float64)
    totals = group_normalizers(weights, groups, count=4)
    got = (group_coefficients(weights, groups, totals, factors) * losses).sum()
    expected = torch.zeros((), dtype=torch.float64)
    for group in set(groups.tolist()):
        of_group = groups == group
        if weights[of_group].sum() > 0:
            mean = (weights * losses)[of_group].sum() / weights[of_group].sum()
            expected += factors[group] * mean
    assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_group_coefficients_of_the_present_do_not_see_the_absent():
    """Tutorial flaw B27: an absent task took part with loss 0. Here it is the problem without it, bit for bit."""
    weights, groups = torch.tensor([1.0, 0.3, 0.7]), torch.tensor([0, 0, 2])
    three = group_coefficients(weights, groups, torch.tensor([1.3, 0.0, 0.7]), torch.tensor([1.0, 5.0, 2.0]))
    two = group_coefficients(weights, torch.tensor([0, 0, 1]), torch.tensor([1.3, 0.7]), torch.tensor([1.0, 2.0]))
    assert torch.equal(three, two)


def test_group_coefficients_takes_one_total_for_all_and_no_gradient():
    factors = torch.tensor([1.0, 3.0], requires_grad=True)
    got = group_coefficients(torch.ones(3), torch.tensor([0, 1, -1]), torch.tensor(4.0), factors)
    assert got.tolist() == [0.25, 0.75, 0.0]
    assert not got.requires_grad


def test_group_coefficients_refuses_totals_of_another_number_of_groups():
    with pytest.raises(ValueError, match="one total for each group"):
        group_coefficients(torch.ones(1), torch.tensor([0]), torch.ones(3), torch.ones(2))
    with pytest.raises(ValueError, match="segments"):
        group_normalizers(torch.ones(1), torch.tensor([0]), count=1, by="sequences")
