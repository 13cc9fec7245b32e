"""What the accumulation law found, as values and as one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SplitResult:
    """One way to cut the step.

    Attributes:
        micro_batches: Rows of each micro-batch, as ``(2, 2, 2, 2)``.
        error: ||g - g*|| / ||g*||, g the accumulated gradient, g* that of the whole batch in one pass.
        factor: How many times too large g is, where it points as g* does: the projection of g on g*, over ||g*||.
        cosine: Of the angle between g and g*.
        mean_of_means: Relative distance of g, scaled, to the mean of the micro-batches' own gradients: near 0 where
            each micro-batch was divided by its own count.
    """

    micro_batches: tuple[int, ...]
    error: float
    factor: float
    cosine: float
    mean_of_means: float = float("inf")


@dataclass(frozen=True)
class AccumulationReport:
    """Whether a loss obeys the accumulation law.

    Attributes:
        is_exact: Whether every split has the gradient of the whole batch, within `tolerance`.
        splits: What was found for each split.
        tolerance: The largest relative error that counts as rounding.
        masked: Relative error that a micro-batch without a single label brings; infinite where
            it or the loss is NaN, None if not tried.
    """

    is_exact: bool
    splits: tuple[SplitResult, ...]
    tolerance: float
    masked: float | None = None

    @property
    def worst(self) -> SplitResult:
        """The split with the largest error."""
        return max(self.splits, key=lambda split: split.error)

    @property
    def worst_error(self) -> float:
        """The largest relative error of the gradient, over all splits and the micro-batch without labels."""
        return max(self.worst.error, self.masked or 0.0)

    @property
    def sentence(self) -> str:
        """The verdict, and where the reason is known, the reason and its size."""
        if self.is_exact:
            return (
                f"Exact: {len(self.splits)} splits have the gradient of the whole batch, "
                f"to a relative error of {self.worst_error:.1e}."
            )
        worst = self.worst
        if not worst.error <= self.tolerance:
            return _why(worst, self.tolerance)
        if self.masked == float("inf"):
            return "A micro-batch without a single label makes the loss or its gradient NaN."
        return f"A micro-batch without a single label changes the gradient by {self.masked:.0%}."

    def __str__(self) -> str:
        return self.sentence


def _why(split: SplitResult, tolerance: float) -> str:
    count, factor = len(split.micro_batches), split.factor
    if split.error != split.error or split.error == float("inf"):
        return f"With {_named(split.micro_batches)} the gradient is not finite."
    wrong = f"with {_named(split.micro_batches)} the gradient is {split.error:.0%} wrong"
    if split.error < 0.005:
        wrong = f"with {_named(split.micro_batches)} the gradient's relative error is {split.error:.1e}"
    scale = f" and {factor:.2g} times too large" if factor > 1.02 else ""
    if 0 < factor < 0.98:
        scale = f" and {1 / factor:.2g} times too small"
    if split.cosine > 1 - 1e-4 and scale:
        return f"Wrong scale: {wrong}{scale}, in the right direction; look for a second division or multiplication."
    if split.mean_of_means <= max(100 * tolerance, 1e-6):
        summed = factor > 1 + 0.5 * (count - 1)
        how = "summed over the window" if summed else "and the means are averaged"
        return f"Mean of means: each micro-batch is divided by its own count, {how}; {wrong}{scale}."
    return f"Not exact: {wrong}{scale}; the loss of a row depends on the rows beside it."


def _named(sizes: Sequence[int]) -> str:
    if len(set(sizes)) == 1:
        return f"{len(sizes)} micro-batches of {sizes[0]}"
    return f"micro-batches of {', '.join(map(str, sizes[:-1]))} and {sizes[-1]} rows"
