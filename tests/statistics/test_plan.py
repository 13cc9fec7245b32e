"""How the work is cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sftloss.statistics import Plan
from sftloss.statistics.plan import Buffers

SIZES = st.integers(1, 300_000)


@given(st.integers(1, 5000), SIZES, st.sampled_from([4, 8]))
def test_chunks_are_even_multiples_of_32_within_the_room(tokens, vocab, itemsize):
    chunk = Plan().chunk(tokens, vocab, itemsize)
    most = max(256, 50 * 2**20 // (vocab * itemsize))
    assert chunk % 32 == 0 and chunk <= most
    # as few chunks as the room allows, but for what rounding costs
    assert -(-tokens // chunk) <= -(-tokens // (most - most % 32)) and chunk < tokens / -(-tokens // most) + 64


@given(st.integers(1, 5000), SIZES, st.sampled_from([4, 8]))
def test_blocks_of_columns_cover_the_vocabulary_once(tokens, vocab, itemsize):
    blocks = list(Plan().column_blocks(tokens, vocab, itemsize))
    assert [column for block in (blocks[0], blocks[-1]) for column in (block.start, block.stop)][::3] == [0, vocab]
    assert all(left.stop == right.start for left, right in zip(blocks, blocks[1:], strict=False))
    widest = max(block.stop - block.start for block in blocks)
    is_small = tokens >= 256 and tokens * vocab * itemsize <= 16 * 2**20
    assert widest <= 256 or widest * tokens * itemsize <= 8 * 2**20 or (is_small and len(blocks) == 1)


def test_another_devices_block_is_the_whole_vocabulary():
    assert list(Plan().column_blocks(256, 50257, 4, is_device=True)) == [slice(0, 50257)]
    cut = list(Plan(columns=30000).column_blocks(256, 50257, 4, is_device=True))
    assert cut == [slice(0, 30000), slice(30000, 50257)]


@pytest.mark.parametrize(("tokens", "vocab", "chunk"), [(2048, 50257, 256), (1024, 151936, 256), (512, 8000, 512)])
def test_chunks_of_the_shapes_that_are_measured(tokens, vocab, chunk):
    assert Plan().chunk(tokens, vocab, 4) == chunk


@pytest.mark.parametrize(
    ("tokens", "vocab", "chunk"),
    [(8192, 128256, 2752), (65536, 128256, 4096), (1024, 128256, 1024), (8192, 1000, 8192)],
)
def test_chunks_on_a_gpu_hold_an_eighth_of_plain_but_few_tokens_at_once(tokens, vocab, chunk):
    assert Plan().chunk(tokens, vocab, 4, is_device=True) == chunk


def test_rows_of_a_buffer_start_on_whole_multiples_but_where_they_are_short():
    buffers = Buffers(torch.empty(0), torch.float32)
    assert buffers.take("z", 3, 5121).shape == (3, 5121) and buffers.take("z", 3, 5121).stride() == (5152, 1)
    assert buffers.take("z", 3, 40).stride() == (40, 1)
    assert buffers.take("z", 3, 5121).data_ptr() == buffers.take("z", 3, 40).data_ptr()  # the memory is used again
