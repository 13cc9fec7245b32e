"""Examples token by token for an inspection: what is trained in them, long stretches of the same kind shortened."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from sftloss.data import Example
from sftloss.data.tokenizer import characters
from sftloss.document import TokenStrip
from sftloss.roles import ROLES

LONGEST_TRAINED, LONGEST_UNTRAINED = 60, 36

_Piece = tuple[str, str, float]


def strip(example: Example, tokenizer: Any, *, title: str) -> TokenStrip:
    """The example with one measure, its weight as a part of the largest; pieces of one character stand together."""
    largest = float(example.weights.abs().max()) or 1.0
    values = [float(w) / largest for w in example.weights.abs().tolist()]
    pieces: list[_Piece] = []
    kinds = zip(example.input_ids.tolist(), example.roles.tolist(), values, strict=True)
    for (role, value), part in groupby(kinds, key=lambda kind: kind[1:]):
        texts = characters([token for token, _, _ in part], tokenizer)
        pieces += _shortened([(text, ROLES[role], value) for _, text in texts])
    shown, roles, shades = zip(*pieces, strict=True)
    return TokenStrip(title, ("weight",), shown, roles, (shades,))


def _shortened(pieces: list[_Piece]) -> list[_Piece]:
    """Both ends of a long stretch, and how much is between them."""
    _, role, value = pieces[0]
    most = LONGEST_TRAINED if value > 0 else LONGEST_UNTRAINED
    if len(pieces) <= most + 4:
        return pieces
    head, tail = most - most // 3, most // 3
    return [*pieces[:head], (f" \u2026 {len(pieces) - head - tail:,} more \u2026 ", role, value), *pieces[-tail:]]
