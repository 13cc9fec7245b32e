"""How the work is cut: which mode, how many tokens or columns at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_CHUNK_BYTES = 80 * 2**20  # what one chunk of logits may take: 417 rows of 50257 float32
_TILE_BYTES = 16 * 2**20  # one tile of the two-pass mode: 2048 rows of 2048 float32, fits a last-level cache
_SUPER_CHUNK = 8192  # tokens the two-pass mode keeps in one vocabulary sweep


@dataclass(frozen=True)
class Plan:
    """How a fused loss computes; every choice gives the same numbers.

    Attributes:
        mode: "one_pass" finishes the gradients of a chunk of tokens while its logits are alive: three matrix
            products. "two_pass" tiles over the vocabulary and recomputes in backward: four products, the least
            memory. "auto" takes one pass where gradients are wanted and the objective looks at one token at a time.
        tokens: Tokens in a chunk (one pass) or None to choose by memory.
        columns: Vocabulary columns in a tile (two passes) or None to choose by memory.
        fields: Statistics to return beside those the objective reads and those that are free.
    """

    mode: Literal["auto", "one_pass", "two_pass"] = "auto"
    tokens: int | None = None
    columns: int | None = None
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "one_pass", "two_pass"):
            raise ValueError(f"Plan: mode must be 'auto', 'one_pass' or 'two_pass', got {self.mode!r}.")
        for name in ("tokens", "columns"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"Plan: {name} must be at least 1 or None, got {value}.")

    def chunk(self, tokens: int, vocab: int, logit_bytes: int) -> int:
        """Tokens in one chunk of the one-pass mode; chunks of nearly equal size."""
        if self.tokens is not None:
            return self.tokens
        fit = max(16, _CHUNK_BYTES // (vocab * logit_bytes))
        parts = -(-max(tokens, 1) // fit)
        return -(-max(tokens, 1) // parts)

    def tile(self, tokens: int, vocab: int, itemsize: int) -> tuple[int, int]:
        """Tokens and columns of one tile of the two-pass mode."""
        rows = min(max(tokens, 1), self.tokens or _SUPER_CHUNK)
        return rows, min(vocab, self.columns or max(256, _TILE_BYTES // (rows * itemsize)))
