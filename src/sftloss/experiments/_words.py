"""Numbers and names as the sentences of a comparison say them."""

from __future__ import annotations

from sftloss.analysis.document import Interval
from sftloss.experiments._verdicts import Comparison, Measure


def number(value: float, measure: Measure) -> str:
    """A value, or the size of a difference, in the measure's own unit."""
    if measure.kind == "percent":
        return f"{100 * value:.1f} percentage points"
    text = f"{value:.3f}" if abs(value) >= 0.0005 or value == 0 else f"{value:.1e}"
    return f"{text} {measure.unit}".strip()


def signed(value: float, measure: Measure) -> str:
    """A difference with its sign."""
    return ("+" if value > 0 else "") + number(value, measure)


def between(bounds: Interval, measure: Measure) -> str:
    factor = 100.0 if measure.kind == "percent" else 1.0
    digits = 1 if measure.kind == "percent" else 3
    low, high = (f"{factor * v:+.{digits}f}" for v in (bounds.low, bounds.high))
    return f"{low} to {high}"


def listed(names: tuple[str, ...]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def said(comparison: Comparison, names: tuple[str, str]) -> str:
    """The sentence of a difference that the data supports; `names` are of the arm and of the reference."""
    arm, reference = names
    measure, mean = comparison.measure, comparison.difference
    bounds = mean.interval(comparison.level)
    assert bounds is not None
    more = "higher" if mean.value > 0 else "lower"
    judged = "" if not measure.better else ", which is better" if measure.better == more else ", which is worse"
    return (
        f"{arm} against {reference}: {measure.name} {more} by {number(abs(mean.value), measure)}{judged}; "
        f"simultaneous interval {between(bounds, measure)}."
    )


def silent(comparison: Comparison, names: tuple[str, str]) -> str:
    """The sentence where the data shows no difference, with what it could have shown."""
    arm, reference = names
    measure, mean = comparison.measure, comparison.difference
    bounds = mean.interval(comparison.level)
    if bounds is None:
        return f"{arm} against {reference}, {measure.name}: too little data for an interval."
    least = number(mean.detectable(comparison.level), measure)
    return (
        f"{arm} against {reference}: no difference in {measure.name} that this data can show "
        f"({signed(mean.value, measure)}, interval {between(bounds, measure)}); "
        f"the smallest it would have found is about {least}."
    )
