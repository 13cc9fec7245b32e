"""How the work is cut: which mode, how many tokens or columns at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from sftloss.statistics.tokens import check_fields

_CHUNK_BYTES = 50 * 2**20  # what one chunk of logits may take: 256 rows of 50257 float32
_CHUNK_ROWS = 256  # but no fewer: each chunk reads and writes the whole of dW once
_ROWS = 32  # the products of a processor run best with whole multiples of these
_BLOCK_BYTES = 8 * 2**20  # of a chunk, gone over several times while it is in the caches
_TILE_BYTES = 16 * 2**20  # one tile of the two-pass mode: 2048 rows of 2048 float32, fits a last-level cache
# a GPU's memory is larger and its products need to be: from arithmetic, not yet from a measurement
_DEVICE_CHUNK_BYTES, _DEVICE_TILE_BYTES = 640 * 2**20, 128 * 2**20
_DEVICE_CHUNK_ROWS = 4096  # more would save no more passes over dW worth the memory (benchmarks.roofline)
_PLAIN_BYTES = 12  # of a logit in the plain formula: in 16 and 32 bits, and the gradient of each
_SUPER_CHUNK = 8192  # tokens the two-pass mode keeps in one vocabulary sweep


@dataclass(frozen=True)
class Plan:
    """How a fused loss computes. Every choice gives the same numbers, except `tolerance`.

    Attributes:
        mode: "one_pass" finishes the gradients of a chunk of tokens while its logits are alive: three matrix
            products. "two_pass" tiles over the vocabulary and recomputes in backward: four products, the least
            memory. "auto" takes one pass where the objective allows it.
        tokens: Tokens in a chunk or a tile, or None to choose by memory.
        columns: Vocabulary columns in a block or a tile, or None to choose by memory.
        fields: Statistics to return beside those the objective reads and those that are free.
        tolerance: Gradient filtering, 0 for none. The relative error that the gradients of the hidden states and of
            the head may have (Frobenius norm), such as 2.5e-3; rounding to bfloat16 errs by 1.7e-3.
            Vocabulary columns that matter little for a group of tokens take no part in their gradient products, and a
            matrix of rank one with the same row sums and column sums replaces them. Random probes measure the error
            and so choose the columns; where too many matter, and in calls of fewer than 32 tokens, the gradients are
            exact. `TokenStats.filtered` reports what was left out. Loss, statistics and the bias's gradient stay
            exact. In two passes, backward then holds the logits of a chunk of tokens, as one pass does. `map_logits`
            refuses it.
        counted: Number of tokens with a target and a coefficient, where the host knows it. On a GPU it saves the one
            wait of a call, which finds the tokens that count. A wrong number raises.

    Source:
        Wijmans et al., *Cut Your Losses in Large-Vocabulary Language Models*, 2024, section 4.3 (arXiv:2411.09009);
        it filters whole blocks of a sorted vocabulary and replaces nothing.
    """

    mode: Literal["auto", "one_pass", "two_pass"] = "auto"
    tokens: int | None = None
    columns: int | None = None
    fields: tuple[str, ...] = ()
    tolerance: float = 0.0
    counted: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "one_pass", "two_pass"):
            raise ValueError(f"Plan: mode must be 'auto', 'one_pass' or 'two_pass', got {self.mode!r}.")
        for name in ("tokens", "columns"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Plan: {name} must be at least 1 or None, got {value}.")
        check_fields("Plan", self.fields)
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"Plan: tolerance must be at least 0 and below 1, got {self.tolerance}.")

    def chunk(self, tokens: int, vocab: int, logit_bytes: int, *, is_device: bool = False) -> int:
        """Return the number of tokens in a chunk of one pass; chunks are of nearly equal size."""
        if self.tokens is not None:
            return self.tokens
        room = _CHUNK_BYTES
        if is_device:  # an eighth of what the plain formula would hold
            room = max(_DEVICE_CHUNK_BYTES, tokens * vocab * _PLAIN_BYTES // 8)
        fit = max(_CHUNK_ROWS, room // (vocab * logit_bytes))
        fit = min(fit, max(_DEVICE_CHUNK_ROWS, _DEVICE_CHUNK_BYTES // (vocab * logit_bytes))) if is_device else fit
        fit -= fit % _ROWS
        parts = -(-max(tokens, 1) // fit)
        even = -(-max(tokens, 1) // parts)
        return -(-even // _ROWS) * _ROWS

    def column_blocks(self, tokens: int, vocab: int, itemsize: int, *, is_device: bool = False) -> Iterator[slice]:
        """Return the column blocks of a chunk: as wide as stays in a processor's caches, elsewhere one block.

        A small chunk of many tokens is one block too: its products are faster whole.
        """
        is_whole = is_device or (tokens >= _CHUNK_ROWS and tokens * vocab * itemsize <= _TILE_BYTES)
        fit = vocab if is_whole else _BLOCK_BYTES // (_stride(max(tokens, 1)) * itemsize)
        return cuts(vocab, self.columns or max(256, fit))

    def tile(self, tokens: int, vocab: int, itemsize: int, *, is_device: bool = False) -> tuple[int, int]:
        """Return the numbers of tokens and columns in a tile of two passes."""
        rows = min(max(tokens, 1), self.tokens or _SUPER_CHUNK)
        size = _DEVICE_TILE_BYTES if is_device else _TILE_BYTES
        return rows, min(vocab, self.columns or max(256, size // (rows * itemsize)))


def cuts(total: int, step: int) -> Iterator[slice]:
    """Yield slices of at most `step` that cover `total`; one empty slice where there is nothing."""
    for start in range(0, max(total, 1), step):
        yield slice(start, min(start + step, total))


def is_small(tokens: int, columns: Sequence[slice]) -> bool:
    """Whether the logits of a chunk lie row by row: one block of many tokens, whose products are fastest so."""
    return len(columns) == 1 and tokens >= _CHUNK_ROWS


def _stride(columns: int) -> int:
    return columns if columns < 2 * _ROWS else -(-columns // _ROWS) * _ROWS


@dataclass(frozen=True)
class Buffers:
    """Memory for one block of logits at a time: allocated on first use, used again for the next block."""

    like: Tensor
    dtype: torch.dtype
    memory: dict[str, Tensor] = field(default_factory=dict)

    def take(self, name: str, tokens: int, columns: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return ``(tokens, columns)`` in the dtype of the sums or another; the last block of this name is overwritten.

        Rows of 64 numbers or more start a multiple of 32 apart, which the products need for their full rate.
        """
        stride = _stride(columns)
        if name not in self.memory or self.memory[name].numel() < tokens * stride:
            self.memory.pop(name, None)
            self.memory[name] = self.like.new_empty(tokens * stride, dtype=dtype or self.dtype)
        return self.memory[name][: tokens * stride].view(tokens, stride)[:, :columns]
