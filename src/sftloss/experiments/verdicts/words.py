"""Differences and verdicts in words."""

from __future__ import annotations

from collections.abc import Sequence

from sftloss.experiments.verdicts.comparisons import Comparison, Measure, Results
from sftloss.words import listed, number


def unit_of(measure: Measure) -> str:
    """Unit of a difference: percentage points for shares."""
    return "percentage points" if measure.kind == "percent" else measure.unit


def in_unit(value: float, measure: Measure) -> float:
    """A difference in the unit of :func:`unit_of`."""
    return 100.0 * value if measure.kind == "percent" else value


def with_bounds(one: Comparison) -> tuple[float, float | None, float | None]:
    """A difference and the ends of its simultaneous interval, in its unit."""
    value, bounds = in_unit(one.difference.value, one.measure), one.bounds
    if bounds is None:
        return value, None, None
    return value, in_unit(bounds.low, one.measure), in_unit(bounds.high, one.measure)


def with_unit(value: float, measure: Measure) -> str:
    """The size of a difference with its unit."""
    return f"{number(in_unit(value, measure))} {unit_of(measure)}".strip()


def coverage(level: float) -> str:
    """The level of an interval in percent."""
    return f"{100 * level:.2f} %"


def signed(value: float, measure: Measure) -> str:
    """A difference with its sign and unit."""
    return ("+" if value > 0 else "") + with_unit(value, measure)


def difference_sentence(one: Comparison, results: Results) -> str:
    """The sentence of a difference that the data supports."""
    measure, value = one.measure, one.difference.value
    _, low, high = with_bounds(one)
    assert low is not None and high is not None
    more = "higher" if value > 0 else "lower"
    judged = "" if not measure.better else ", which is better" if measure.better == more else ", which is worse"
    return (
        f"{results.names[one.arm]}: {measure.name} is {with_unit(abs(value), measure)} {more} than with "
        f"{results.reference}{judged} (simultaneous interval {number(low)} to {number(high)})."
    )


def task_conclusion(compared: Sequence[Comparison], results: Results) -> str:
    """How many arms lowered or raised a held-out loss, with the tasks in which they did."""
    losses = [one for one in compared if one.measure.key == "token_nll"]
    arms = tuple(dict.fromkeys(one.arm for one in losses))
    if not any(one.is_judged for one in losses):
        return "There are too few seeds for a verdict on any task."

    def moved(sign: int) -> tuple[str, ...]:
        where = {arm: [one.measure.task or "all tokens" for one in losses
                       if one.arm == arm and one.is_different and one.difference.value * sign > 0]
                 for arm in arms}  # fmt: skip
        return tuple(f"{results.names[arm]} ({', '.join(tasks)})" for arm, tasks in where.items() if tasks)

    lower, higher = moved(-1), moved(1)
    equal = len(arms) - len({one.arm for one in losses if one.is_different})
    parts = (
        f"{len(lower)} of {len(arms)} arms lowered a held-out loss" + (f": {listed(lower)}" if lower else ""),
        f"{len(higher)} raised one" + (f": {listed(higher)}" if higher else ""),
        f"{equal} show no difference",
    )
    return "; ".join(parts) + "."
