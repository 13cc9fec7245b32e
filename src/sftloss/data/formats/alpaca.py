"""Rows with instruction, input and output."""

from __future__ import annotations

from functools import partial

from sftloss.data.formats.format import Format
from sftloss.data.formats.pairs import pair

ALPACA = Format(
    "alpaca",
    lambda row: "instruction" in row and "output" in row and "completion" not in row and "response" not in row,
    partial(pair, prompt="instruction", response="output"),
    "`instruction`, `output`, and where there are some `input`, `system` and `history` ([prompt, answer] pairs)",
    {"instruction": "Add.", "input": "2 + 2", "output": "4"},
    order=30,
)
