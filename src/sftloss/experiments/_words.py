"""Numbers and names as the sentences of a comparison say them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sftloss.analysis.document import Interval
from sftloss.experiments._plan import Arm
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
