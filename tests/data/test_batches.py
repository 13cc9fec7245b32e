"""Every example once, every target where the hidden state that predicts it stands."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sftloss.data import Example, Origin, align, batches, collate

PAD = 0


def example(index: int, length: int) -> Example:
    """Token values that name example and position, so that a mix-up shows."""
    ids = torch.arange(length) + 1000 * (index + 1)
    weights = torch.rand(length, generator=torch.Generator().manual_seed(index)) + 0.1
    weights[0] = 0.0
    roles = (torch.arange(length) % 4).to(torch.int8)
    is_end = torch.zeros(length, dtype=torch.bool)
    is_end[-1] = True
    return Example(ids, roles, weights, is_end, Origin("here", index))


def given_lengths(lengths):
    return [example(i, length) for i, length in enumerate(lengths)]


LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=30)
LIMITS = st.sampled_from([(4, None), (1, None), (None, 64), (3, 90), (None, 7)])


@settings(max_examples=60, deadline=None)
@given(LENGTHS, LIMITS, st.booleans(), st.booleans(), st.integers(1, 12))
def test_batches_hold_every_token_once_and_every_target_of_its_own_example(lengths, limits, packed, bucketed, window):
    seen = []
    rows, tokens = limits
    made = list(
        batches(
            given_lengths(lengths),
            pad_id=PAD,
            batch_size=rows,
            tokens_per_batch=tokens,
            packed=packed,
            bucketed=bucketed,
            window=window,
        )
    )
    for batch in made:
        for i, one in enumerate(batch.examples):
            at = batch.segments == i
            n = len(one.input_ids)
            assert torch.equal(batch.input_ids[at], one.input_ids)
            assert torch.equal(batch.position_ids[at], torch.arange(n))
            assert batch.targets[at].tolist() == [*one.input_ids[1:].tolist(), -100]
            assert torch.equal(batch.weights[at][:-1], one.weights[1:]) and batch.weights[at][-1] == 0
            assert torch.equal(batch.roles[at][:-1], one.roles[1:])
            assert torch.equal(batch.is_end[at], align(one.is_end, False))
            seen.append(one.origin.row)
        padding = batch.segments < 0
        assert (batch.input_ids[padding] == PAD).all() and (batch.targets[padding] == -100).all()
        assert not batch.weights[padding].any() and not batch.is_end[padding].any()
        assert (batch.attention_mask is None) == packed
        if not packed:
            assert torch.equal(batch.attention_mask, (~padding).long())
        alone = len(batch.examples) == 1
        assert rows is None or batch.input_ids.shape[0] <= rows
        assert tokens is None or batch.input_ids.numel() <= tokens or alone
    assert sorted(seen) == list(range(len(lengths)))


def test_batches_are_the_same_every_time_and_in_the_order_of_their_earliest_example():
    examples = given_lengths([9, 3, 7, 3, 5, 8, 2, 4])
    runs = [[[e.origin.row for e in b.examples] for b in batches(examples, pad_id=PAD, batch_size=2)] for _ in "ab"]
    assert runs[0] == runs[1] == [[0, 5], [1, 7], [2, 4], [3, 6]]


def test_bucketed_batches_pad_less():
    lengths = [2, 40] * 20
    padding = {
        bucketed: sum(
            int((batch.segments < 0).sum())
            for batch in batches(given_lengths(lengths), pad_id=PAD, batch_size=4, bucketed=bucketed)
        )
        for bucketed in (True, False)
    }
    assert padding == {True: 0, False: 20 * 38}


def test_batches_read_no_further_than_their_window():
    read = []

    def source():
        for i in range(10):
            read.append(i)
            yield example(i, 3)

    next(batches(source(), pad_id=PAD, batch_size=1, window=4))
    assert read == [0, 1, 2, 3]


def test_batches_of_nothing_are_none():
    assert list(batches([], pad_id=PAD, batch_size=2)) == []


@pytest.mark.parametrize(
    ("limits", "message"),
    [({}, "give batch_size"), ({"batch_size": 0}, "batch_size"), ({"batch_size": 1, "window": 0}, "window")],
)
def test_batches_refuse_impossible_limits_before_reading(limits, message):
    with pytest.raises(ValueError, match=f"batches: .*{message}"):
        batches(iter([]), pad_id=PAD, **limits)


def test_collate_refuses_several_examples_in_a_row_that_is_not_packed():
    with pytest.raises(ValueError, match="collate: .*packed=True"):
        collate([given_lengths([3, 3])], pad_id=PAD)
    with pytest.raises(ValueError, match="collate: every row"):
        collate([[]], pad_id=PAD)
    with pytest.raises(ValueError, match="collate: pad_id"):
        collate([given_lengths([3])], pad_id=None)


def test_align_moves_by_one_and_fills_the_end():
    assert align(torch.tensor([5, 6, 7]), -100).tolist() == [6, 7, -100]
    assert align(torch.tensor([5]), -100).tolist() == [-100]
    assert align(torch.tensor([], dtype=torch.long), -100).tolist() == []
