"""Numbers and names as the sentences of a comparison say them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sftloss.document import Interval
from sftloss.experiments.experiment import Arm
from sftloss.experiments.verdicts.verdicts import Comparison, Measure


def unit(measure: Measure) -> str:
    """What a difference is counted in."""
    return "percentage points" if measure.kind == "percent" else measure.unit


def in_unit(value: float, measure: Measure) -> float:
    """A difference in its unit: one of shares is counted in percentage points."""
    return 100.0 * value if measure.kind == "percent" else value


def counted(one: Comparison) -> tuple[float, float | None, float | None]:
    """A difference and the ends of its simultaneous interval, in its unit."""
    value, bounds = in_unit(one.difference.value, one.measure), one.bounds
    if bounds is None:
        return value, None, None
    return value, in_unit(bounds.low, one.measure), in_unit(bounds.high, one.measure)


def number(value: float, measure: Measure) -> str:
    """A value, or the size of a difference, in the measure's own unit."""
    if measure.kind == "percent":
        text = f"{100 * value:.1f}"
    else:
        text = f"{value:.3f}" if abs(value) >= 0.0005 or value == 0 else f"{value:.1e}"
    return f"{text} {unit(measure)}".strip()


def signed(value: float, measure: Measure) -> str:
    """A difference with its sign."""
    return ("+" if value > 0 else "") + number(value, measure)


def between(bounds: Interval, measure: Measure) -> str:
    digits = 1 if measure.kind == "percent" else 3
    low, high = (f"{in_unit(v, measure):+.{digits}f}" for v in (bounds.low, bounds.high))
    return f"{low} to {high}"


def listed(names: tuple[str, ...]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def conclusion(compared: Sequence[Comparison], names: Mapping[Arm, str]) -> str:
    """What weighting tasks did, in as many words as it takes: who gained, who lost, who did neither."""
    judged = [one for one in compared if one.measure.key == "token_nll"]
    arms = tuple(dict.fromkeys(one.arm for one in judged))
    if not any(one.is_settled for one in judged):
        return "Too few seeds for a verdict on any task."

    def told(sign: int) -> tuple[str, ...]:
        found = []
        for arm in arms:
            where = [one.measure.task or "all tokens" for one in judged
                     if one.arm == arm and one.is_different and one.difference.value * sign > 0]  # fmt: skip
            if where:
                found.append(f"{names[arm]} ({', '.join(where)})")
        return tuple(found)

    lower, higher = told(-1), told(1)
    silent = len(arms) - len({one.arm for one in judged if one.is_different})
    parts = [
        f"{len(lower)} of {len(arms)} lowered a held-out loss" + (f": {listed(lower)}" if lower else ""),
        f"{len(higher)} raised one" + (f": {listed(higher)}" if higher else ""),
        f"{silent} show no difference",
    ]
    return "; ".join(parts) + "."


def said(comparison: Comparison, names: tuple[str, str]) -> str:
    """The sentence of a difference that the data supports; `names` are of the arm and of the reference."""
    arm, reference = names
    measure, mean = comparison.measure, comparison.difference
    bounds = comparison.bounds
    assert bounds is not None
    more = "higher" if mean.value > 0 else "lower"
    judged = "" if not measure.better else ", which is better" if measure.better == more else ", which is worse"
    return (
        f"{arm} against {reference}: {measure.name} {more} by {number(abs(mean.value), measure)}{judged}; "
        f"simultaneous interval {between(bounds, measure)}."
    )
