"""How the weights of an optimizer step are divided: one vocabulary for training, analysis and the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Batches = Literal["random", "by-length", "packed"]
"""How sequences come together in a micro-batch: at random, sorted by length, or packed into rows of one size."""


@dataclass(frozen=True)
class Normalization:
    r"""How the weight of a sequence depends on its length: :math:`T^{-\alpha}`, or token means of micro-batches.

    Attributes:
        name: What reports call it.
        alpha: Exponent, dimensionless: 0 gives every token the same weight, 1 every sequence.
        micro_batch: Number of sequences in a micro-batch whose token mean is taken before averaging over
            micro-batches; None where there is one denominator for the whole step. With it `alpha` is not used. It
            describes other trainers; no loss of ours trains with it.
        batches: How these micro-batches are put together.

    Raises:
        ValueError: If `alpha` is not finite or `micro_batch` is below 1.
    """

    name: str
    alpha: float = 0.0
    micro_batch: int | None = None
    batches: Batches = "random"

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha):
            raise ValueError(f"normalization: the exponent must be a finite number, got {self.alpha}.")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"normalization: micro_batch must be at least 1, got {self.micro_batch}.")

    @property
    def spelling(self) -> str:
        """How a flag, a YAML key and :class:`sftloss.Loss` spell it: ``token-mean``, ``0.7``."""
        named = {rule.name: spelling for spelling, rule in NORMALIZATIONS.items()}
        return named.get(self.name, f"{self.alpha:g}")


TOKEN_MEAN = Normalization("token mean", 0.0)
EXAMPLE_MEAN = Normalization("example mean", 1.0)
SQRT = Normalization("sqrt", 0.5)
NORMALIZATIONS = {"token-mean": TOKEN_MEAN, "example-mean": EXAMPLE_MEAN, "sqrt": SQRT}
"""The named ones by their spelling."""


def normalization(choice: str | float | Normalization) -> Normalization:
    """A normalization from its spelling: ``token-mean``, ``example-mean``, ``sqrt``, or the exponent of the length.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> normalization("example-mean").alpha, normalization("0.7").name
        (1.0, 'T^-0.7')
    """
    if isinstance(choice, Normalization):
        return choice
    if choice in NORMALIZATIONS:
        return NORMALIZATIONS[choice]
    try:
        alpha = float(choice)
    except (TypeError, ValueError):
        alpha = math.nan
    if not math.isfinite(alpha):
        known = ", ".join(NORMALIZATIONS)
        raise ValueError(f"normalization: {str(choice)[:60]!r} is none of {known}, nor an exponent such as 0.7.")
    same = {known.alpha: known for known in NORMALIZATIONS.values()}
    return same.get(alpha, Normalization(f"T^-{alpha:g}", alpha))


def micro_batch_mean(sequences: int, batches: Batches = "random") -> Normalization:
    """Token means of micro-batches of `sequences`, averaged: what plain gradient accumulation does."""
    return Normalization(f"token mean of {sequences:,}", micro_batch=sequences, batches=batches)
