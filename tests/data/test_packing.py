"""Packed examples are as far apart as in separate rows."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sftloss.data import Batch, Example, Origin, collate, first_fit_decreasing

LENGTHS = (5, 1, 9, 3)


@lru_cache
def model(attention: str):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        attn_implementation=attention,
        initializer_range=0.3,  # far from uniform attention, so that a leak shows
    )
    return LlamaForCausalLM(config).eval()


def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for i, length in enumerate(LENGTHS):
        ids = torch.randint(1, 50, (length,), generator=generator)
        weights = torch.ones(length)
        weights[0] = 0
        made.append(Example(ids, torch.ones(length).to(torch.int8), weights, weights > 1, Origin("here", i)))
    return made


@torch.no_grad()
def logits_of(attention: str, batch: Batch) -> torch.Tensor:
    return model(attention)(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
    ).logits


def worst_difference(attention: str, batch: Batch) -> float:
    """Largest difference between the logits in the batch and those of each example on its own."""
    together = logits_of(attention, batch)
    alone = [logits_of(attention, collate([[one]], pad_id=0))[0] for one in batch.examples]
    return max(float((together[batch.segments == i] - part).abs().max()) for i, part in enumerate(alone))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_examples_attend_to_themselves_only(attention):
    """Position ids alone isolate them, in a row with padding and in one without, single tokens included."""
    made = examples()
    batch = collate([made[:3], made[3:]], pad_id=0, packed=True)
    # 1e-5: float32 sums in another order; logits are of order 1 to 10.
    assert worst_difference(attention, batch) < 1e-5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padded_examples_attend_to_themselves_only(attention):
    batch = collate([[one] for one in examples()], pad_id=0)
    assert worst_difference(attention, batch) < 1e-5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_examples_mix_when_their_positions_do_not_restart(attention):
    """The negative control: without it the two tests above could pass for a model that isolates nothing."""
    batch = collate([examples()], pad_id=0, packed=True)
    running = replace(batch, position_ids=torch.arange(batch.input_ids.shape[1])[None])
    assert worst_difference(attention, running) > 0.1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 40))
def test_first_fit_decreasing_places_everything_once_and_wastes_little(lengths, capacity):
    bins = first_fit_decreasing(lengths, capacity)
    assert sorted(i for part in bins for i in part) == list(range(len(lengths)))
    totals = [sum(lengths[i] for i in part) for part in bins]
    assert all(total <= capacity or len(part) == 1 for total, part in zip(totals, bins, strict=True))
    # Any two bins together are over the capacity, or the second would have gone into the first.
    assert all(a + b > capacity for i, a in enumerate(totals) for b in totals[:i] if a and b)
    assert bins == first_fit_decreasing(lengths, capacity)


def test_first_fit_decreasing_refuses_rows_without_room():
    with pytest.raises(ValueError, match="first_fit_decreasing: capacity"):
        first_fit_decreasing([1], 0)
