"""Weights of tokens: closed forms, edge cases, and laws over drawn lengths."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sftloss.weights import (
    ROLES,
    adaptive_length_weights,
    group_weights,
    length_weights,
    position_weights,
    role_weights,
    segment_lengths,
)

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def segments_of(lengths: list[int]) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


def drawn_weights(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(count, generator=generator) + 0.1
    return torch.where(torch.rand(count, generator=generator) < 0.3, 0.0, weights)


def test_roles_are_those_of_the_records():
    from sftloss import data, roles

    assert ROLES is roles.ROLES is data.ROLES
    assert list(range(len(ROLES))) == [roles.PROMPT, roles.RESPONSE, roles.SYSTEM, roles.TOOL, roles.UNKNOWN]


def test_role_weights_keeps_the_given_ratio_whatever_the_lengths():
    """Tutorial flaw B35: weights on segment means gave a ratio that depends on the lengths."""
    for prompt, response in ((10, 90), (90, 10)):
        u = role_weights(torch.tensor([0] * prompt + [1] * response), {"prompt": 0.1, "response": 1.0})
        assert u[0] / u[-1] == torch.tensor(0.1)


def test_role_weights_of_unnamed_roles_and_padding_is_zero():
    assert role_weights(torch.tensor([0, 1, 2, 3, -1], dtype=torch.int8), {"response": 2.0}).tolist() == [0, 2, 0, 0, 0]


@pytest.mark.parametrize("by_role", [{"assistant": 1.0}, {"prompt": float("nan")}, {"prompt": float("inf")}])
def test_role_weights_refuses_unknown_roles_and_numbers_that_are_none(by_role):
    with pytest.raises(ValueError, match="role_weights"):
        role_weights(torch.tensor([0]), by_role)


def test_role_weights_refuses_a_code_out_of_range():
    with pytest.raises(ValueError, match="role code 5"):
        role_weights(torch.tensor([5]), {"prompt": 1.0})
    with pytest.raises(ValueError, match="role code -2 does not exist"):
        role_weights(torch.tensor([-2]), {"prompt": 1.0})


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 999), st.floats(0, 5), st.floats(0.1, 5))
def test_position_weights_keeps_the_sum_of_every_segment(lengths, seed, start, end):
    """Tutorial flaw B12: a ramp of mean 0.75 changes the learning rate."""
    segments = segments_of(lengths)
    weights = drawn_weights(sum(lengths), seed)
    ramped = position_weights(weights, segments, start=start, end=end)
    # one rounding to float32 a token, at most nine tokens a segment
    assert_close(segment_lengths(ramped, segments), segment_lengths(weights, segments), rtol=1e-6, atol=1e-9)
    assert bool(((ramped == 0) | (weights != 0)).all())


def test_position_weights_is_the_ramp_over_weighted_tokens_only():
    weights = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    segments = torch.tensor([0, 0, 0, 0, 0, -1])
    # ramp 0.5, 0.75, 1.0 over the three weighted tokens, divided by its mean 0.75; the last token is padding
    expected = torch.tensor([0.0, 0.5, 0.0, 0.75, 1.0, 0.0]) / 0.75
    assert_close(position_weights(weights, segments), expected)


def test_position_weights_lives_on_the_device_and_in_the_dtype_of_its_weights():
    weights = torch.ones(3, dtype=torch.float64)
    assert position_weights(weights, torch.zeros(3, dtype=torch.int64)).dtype == torch.float64


@pytest.mark.parametrize("heights", [(-1.0, 1.0), (0.0, 0.0), (1.0, float("inf")), (float("nan"), 1.0)])
def test_position_weights_refuses_heights_without_a_mean(heights):
    with pytest.raises(ValueError, match="position_weights"):
        position_weights(torch.ones(2), torch.zeros(2, dtype=torch.int64), start=heights[0], end=heights[1])


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 999))
def test_length_weights_gives_tokens_equal_weight_at_zero_and_segments_at_one(lengths, seed):
    segments = segments_of(lengths)
    weights = drawn_weights(sum(lengths), seed)
    assert torch.equal(length_weights(weights, segments, alpha=0.0), weights)
    sums = segment_lengths(length_weights(weights, segments, alpha=1.0), segments)
    has_weight = segment_lengths(weights, segments) > 0
    # one rounding to float32 a token
    assert_close(sums, has_weight.to(sums.dtype), rtol=1e-6, atol=0)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 999), st.floats(-1, 2))
def test_length_weights_is_its_formula(lengths, seed, alpha):
    segments = segments_of(lengths)
    weights = drawn_weights(sum(lengths), seed)
    got = length_weights(weights, segments, alpha=alpha)
    for index, part in enumerate(weights.split(lengths)):
        length = part.double().sum()
        expected = part * length**-alpha if length > 0 else part
        assert_close(got[segments == index], expected.float())


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 999), st.randoms(use_true_random=False))
def test_length_weights_does_not_see_packing_padding_or_the_names_of_segments(lengths, seed, random):
    segments = segments_of(lengths)
    weights = drawn_weights(sum(lengths), seed)
    plain = length_weights(weights, segments, alpha=0.7)

    where = list(range(sum(lengths) + 4))
    random.shuffle(where)
    place = torch.tensor(sorted(where[: sum(lengths)]))
    # ids far apart and out of order, garbage weights on padding
    names = torch.tensor([random.randrange(10**12) * 7 + index for index in range(len(lengths))])
    scattered = torch.full((sum(lengths) + 4,), 99.0).index_put((place,), weights)
    ids = torch.full((sum(lengths) + 4,), -1).index_put((place,), names[segments])
    got = length_weights(scattered, ids, alpha=0.7)
    assert torch.equal(got[place], plain)
    assert bool((got[ids < 0] == 0).all())


def test_length_weights_of_an_empty_segment_is_zero_not_nan():
    """Tutorial flaw B15: 0 / 0 for a fully ignored row poisoned the whole batch."""
    got = length_weights(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1]), alpha=1.0)
    assert got.tolist() == [0.0, 0.0, 0.5, 0.5]


def test_length_weights_of_no_tokens_is_empty():
    empty = torch.zeros(0)
    assert length_weights(empty, empty.long(), alpha=1.0).shape == (0,)
    assert position_weights(empty, empty.long()).shape == (0,)


def test_length_weights_refuses_negative_weights_bad_alpha_and_shapes():
    segments = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="signed rewards"):
        length_weights(torch.tensor([1.0, -1.0]), segments, alpha=1.0)
    with pytest.raises(ValueError, match="alpha"):
        length_weights(torch.ones(2), segments, alpha=float("nan"))
    with pytest.raises(ValueError, match=r"segments has shape \(2,\)"):
        length_weights(torch.ones(3), segments, alpha=1.0)
    with pytest.raises(ValueError, match="flat"):
        length_weights(torch.ones(1, 2), segments, alpha=1.0)


def test_adaptive_length_weights_weakens_samples_of_the_wrong_length():
    """Tutorial flaw S22: the factor 1 + penalty * deviation trains 1.9 times harder on an answer ten times too long."""
    weights, segments = torch.ones(550), segments_of([50, 500])
    down = adaptive_length_weights(weights, segments, target_length=50.0, penalty=0.1)
    up = adaptive_length_weights(weights, segments, target_length=50.0, penalty=0.1, direction="up")
    assert_close(down[[0, -1]], torch.tensor([1.0, -0.9]).where(torch.tensor([True, False]), torch.tensor(-0.9).exp()))
    assert_close(up[[0, -1]], torch.tensor([1.0, 1.9]))


def test_adaptive_length_weights_counts_weighted_tokens_whatever_their_weight():
    segments = torch.zeros(4, dtype=torch.int64)
    weights = torch.tensor([0.0, 0.1, 0.1, 5.0])
    assert torch.equal(adaptive_length_weights(weights, segments, target_length=3.0, penalty=2.0), weights)


@pytest.mark.parametrize(
    "bad", [{"target_length": 0.0}, {"target_length": 5.0, "penalty": -1.0}, {"target_length": 5.0, "direction": "x"}]
)
def test_adaptive_length_weights_refuses_numbers_out_of_range(bad):
    with pytest.raises(ValueError, match="adaptive_length_weights"):
        adaptive_length_weights(torch.ones(1), torch.zeros(1, dtype=torch.int64), **bad)


def test_group_weights_multiplies_and_zeroes_padding():
    got = group_weights(torch.ones(3), torch.tensor([1, -1, 0]), torch.tensor([2.0, 3.0]))
    assert got.tolist() == [3.0, 0.0, 2.0]
    with pytest.raises(ValueError, match="group 2 is out of range"):
        group_weights(torch.ones(1), torch.tensor([2]), torch.ones(2))
