"""Results of the accumulation law, as values and as one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sftloss.words import percent


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
        is_over_ranks: Whether the rows were split over processes, `micro_batches` then being the rows of each.
    """

    micro_batches: tuple[int, ...]
    error: float
    factor: float
    cosine: float
    mean_of_means: float = float("inf")
    is_over_ranks: bool = False


@dataclass(frozen=True)
class AccumulationReport:
    """Whether a loss obeys the accumulation law.

    Attributes:
        is_exact: Whether every split has the gradient of the whole batch, within `tolerance`.
        splits: The result of each split.
        tolerance: The largest relative error that counts as rounding.
        masked: Relative error caused by a micro-batch without a single label; infinite where that or the loss is NaN,
            None if not tried.
        uses_items: Whether the gradient follows the number of items it gets; None if it gets none.
        is_divided_twice: Whether it is divided by the square of that number. Every split then agrees with the whole
            batch, so only a step that counts twice as many items shows it.
    """

    is_exact: bool
    splits: tuple[SplitResult, ...]
    tolerance: float
    masked: float | None = None
    uses_items: bool | None = None
    is_divided_twice: bool = False

    @property
    def worst(self) -> SplitResult:
        """The split with the largest error."""
        return max(self.splits, key=lambda split: split.error)

    @property
    def worst_error(self) -> float:
        """The largest relative error of the gradient, over all splits and the micro-batch without labels."""
        return max(self.worst.error, self.masked or 0.0)

    @property
    def reason(self) -> str:
        """One of `REASONS`: the kind of mistake that produces these numbers."""
        worst = self.worst
        if self.is_exact:
            return "exact"
        if self.is_divided_twice and worst.error <= self.tolerance:
            return "divided by items twice"
        if worst.error <= self.tolerance:
            return "empty micro-batch"
        if not worst.error < float("inf"):
            return "not finite"
        if all(split.error <= self.tolerance for split in self.splits if not split.is_over_ranks):
            return "ranks"
        if worst.cosine > 1 - 1e-4:
            if self._has_factor(lambda count: 1 / count):
                return "divided twice"
            return "not divided" if self._has_factor(float) else "wrong scale"
        return "mean of means" if worst.mean_of_means <= max(100 * self.tolerance, 1e-6) else "rows beside it"

    @property
    def sentence(self) -> str:
        """The verdict; where the reason is known, the reason and its size."""
        if self.reason == "empty micro-batch" and self.masked == float("inf"):
            return "A micro-batch without a single label makes the loss or its gradient NaN."
        # a window whose means are added up is too large by about the number of its micro-batches
        is_summed = self.worst.factor > 1 + 0.5 * (len(self.worst.micro_batches) - 1)
        text = REASONS[self.reason].format(
            splits=len(self.splits),
            error=self.worst_error,
            masked=percent(self.masked),
            named=_named(self.worst),
            wrong=_wrong(self.worst),
            how="summed over the window" if is_summed else "and the means are averaged",
        )
        return f"{text} {_SUM}" if self.is_exact and self.uses_items is False else text

    def __str__(self) -> str:
        return self.sentence

    def _has_factor(self, of: Callable[[int], float]) -> bool:
        """Whether each split in equal parts is too large by this function of their number."""
        equal = [s for s in self.splits if len(set(s.micro_batches)) == 1 and not s.is_over_ranks]
        return all(abs(split.factor / of(len(split.micro_batches)) - 1) < 0.01 for split in equal)


REASONS = {
    "exact": "Exact: {splits} splits have the gradient of the whole batch, to a relative error of {error:.1e}.",
    "empty micro-batch": "A micro-batch without a single label changes the gradient by {masked}.",
    "not finite": "With {named} the gradient is not finite.",
    "mean of means": "Mean of means: each micro-batch is divided by its own count, {how}; {wrong}.",
    "divided twice": "Divided twice: {wrong}, in the right direction; it is divided by the number of micro-batches "
    "although it is normalized over the step, or is a sum that is normalized by nothing else.",
    "divided by items twice": "Divided twice: with twice the number of items the gradient is a quarter, not a half; "
    "the loss is divided by the number of items a second time, so the gradient shrinks as steps have more labels.",
    "not divided": "Not divided: {wrong}, in the right direction; the losses of the micro-batches are added up, and "
    "nothing divides them by their number or by the items of the step.",
    "ranks": "Right on one process, not on several: {wrong}; each rank is divided by its own count, not by all ranks'.",
    "wrong scale": "Wrong scale: {wrong}, in the right direction; look for a second division or multiplication.",
    "rows beside it": "Not exact: {wrong}; the loss of a row depends on the rows beside it.",
}
"""Each verdict and its sentence."""

_SUM = "But the number of items changes nothing: the loss is a sum, and its gradient grows with the labels of a step."


def _wrong(split: SplitResult) -> str:
    size = (
        f"{percent(split.error)} wrong" if split.error >= 0.005 else f"wrong by a relative error of {split.error:.1e}"
    )
    wrong, factor = f"with {_named(split)} the gradient is {size}", split.factor
    if factor > 1.02:
        return f"{wrong} and {factor:.2g} times too large"
    return f"{wrong} and {1 / factor:.2g} times too small" if 0 < factor < 0.98 else wrong


def _named(split: SplitResult) -> str:
    sizes, what = split.micro_batches, "ranks" if split.is_over_ranks else "micro-batches"
    if len(set(sizes)) == 1:
        return f"{len(sizes)} {what} of {sizes[0]}"
    return f"{what} of {', '.join(map(str, sizes[:-1]))} and {sizes[-1]} rows"
