"""How the work is cut: which mode, how many tokens or columns at a time."""

from __future__ import annotations

from collections.abc import Iterator
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
_SUPER_CHUNK = 8192  # tokens the two-pass mode keeps in one vocabulary sweep


@dataclass(frozen=True)
class Plan:
    """How a fused loss computes; every choice gives the same numbers, but for `skip_below`.

    Attributes:
        mode: "one_pass" finishes the gradients of a chunk of tokens while its logits are alive: three matrix
            products. "two_pass" tiles over the vocabulary and recomputes in backward: four products, the least
            memory. "auto" takes one pass where gradients are wanted and the objective looks at one token at a time.
        tokens: Tokens in a chunk (one pass) or None to choose by memory.
        columns: Vocabulary columns in a tile (two passes, and one where no kernels run) or None to choose by memory.
        fields: Statistics to return beside those the objective reads and those that are free.
        skip_below: Gradient filtering in one pass, 0 for none: vocabulary columns in which no token of a chunk has a
            logit gradient of this size, relative to the largest coefficient, are left out of the gradient products.
            With t = skip_below max|c| and the head's scale s an entry of dh errs by at most |s| t times the sum of |W|
            over its column, one of dW by |s| t times the sum of |h| over its column; the loss, the statistics and the
            bias's gradient stay exact. Finding the columns waits for the device once a chunk.

    Source:
        Wijmans et al., *Cut Your Losses in Large-Vocabulary Language Models*, 2024, section 4.3 (arXiv:2411.09009);
        there whole blocks of a sorted vocabulary.
    """

    mode: Literal["auto", "one_pass", "two_pass"] = "auto"
    tokens: int | None = None
    columns: int | None = None
    fields: tuple[str, ...] = ()
    skip_below: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "one_pass", "two_pass"):
            raise ValueError(f"Plan: mode must be 'auto', 'one_pass' or 'two_pass', got {self.mode!r}.")
        for name in ("tokens", "columns"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Plan: {name} must be at least 1 or None, got {value}.")
        check_fields("Plan", self.fields)
        if not 0 <= self.skip_below < 1:
            raise ValueError(f"Plan: skip_below must be at least 0 and below 1, got {self.skip_below}.")
        if self.skip_below and self.mode == "two_pass":
            raise ValueError("Plan: skip_below is for one pass; two passes are exact.")

    def chunk(self, tokens: int, vocab: int, logit_bytes: int, *, is_device: bool = False) -> int:
        """Tokens in one chunk of the one-pass mode; chunks of nearly equal size."""
        if self.tokens is not None:
            return self.tokens
        fit = max(_CHUNK_ROWS, (_DEVICE_CHUNK_BYTES if is_device else _CHUNK_BYTES) // (vocab * logit_bytes))
        fit -= fit % _ROWS
        parts = -(-max(tokens, 1) // fit)
        even = -(-max(tokens, 1) // parts)
        return -(-even // _ROWS) * _ROWS

    def column_blocks(self, tokens: int, vocab: int, itemsize: int, *, is_device: bool = False) -> Iterator[slice]:
        """Columns of a chunk of the one-pass mode: as many at a time as stay in a processor's caches, elsewhere all."""
        fit = vocab if is_device else _BLOCK_BYTES // (_stride(max(tokens, 1)) * itemsize)
        return cuts(vocab, self.columns or max(256, fit))

    def tile(self, tokens: int, vocab: int, itemsize: int, *, is_device: bool = False) -> tuple[int, int]:
        """Tokens and columns of one tile of the two-pass mode."""
        rows = min(max(tokens, 1), self.tokens or _SUPER_CHUNK)
        room = _DEVICE_TILE_BYTES if is_device else _TILE_BYTES
        return rows, min(vocab, self.columns or max(256, room // (rows * itemsize)))


def cuts(total: int, step: int) -> Iterator[slice]:
    """Yield slices of at most `step` that cover `total`; one empty slice where there is nothing."""
    for start in range(0, max(total, 1), step):
        yield slice(start, min(start + step, total))


def _stride(columns: int) -> int:
    return columns if columns < 2 * _ROWS else -(-columns // _ROWS) * _ROWS


@dataclass(frozen=True)
class Buffers:
    """Memory for one block of logits at a time: made on first use, used again for the next block."""

    like: Tensor
    dtype: torch.dtype
    held: dict[str, Tensor] = field(default_factory=dict)

    def take(self, name: str, tokens: int, columns: int, dtype: torch.dtype | None = None) -> Tensor:
        """``(tokens, columns)`` in the sums' dtype, or another; what it held under this name is overwritten.

        Rows of 64 numbers or more start a multiple of 32 apart, so that none lies askew to the products.
        """
        stride = _stride(columns)
        if name not in self.held or self.held[name].numel() < tokens * stride:
            self.held.pop(name, None)
            self.held[name] = self.like.new_empty(tokens * stride, dtype=dtype or self.dtype)
        return self.held[name][: tokens * stride].view(tokens, stride)[:, :columns]
