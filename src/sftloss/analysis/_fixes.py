"""What to do about a finding, as a command line or a setting: the one place that spells them."""

from __future__ import annotations

INSPECT = "sftloss inspect --model MODEL --data DATA"
ANSWERS_ONLY = "give prompt, system and tool tokens weight 0 (role weights), then " + INSPECT
LONGER = "sftloss analyze --model MODEL --data DATA --max-length MORE, or drop the rows that are cut off"
GLOBAL_MEAN = "sftloss analyze --model MODEL --data DATA --normalization token-mean, one denominator for the whole step"
READ_ROWS = "read the rows listed here: " + INSPECT
COMPARE = "train with each, then compare the answers"


def alpha(value: float) -> str:
    """The setting that divides by T^alpha."""
    return f"--normalization {value:.2f}"
