"""Verdicts as findings and headlines: what the intervals support, and what they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sftloss.analysis.document import Finding, Interval
from sftloss.experiments._plan import Arm
from sftloss.experiments._verdicts import ENOUGH, SEEDS, Comparison, Measure, Results
from sftloss.experiments._words import conclusion, listed, number, said, signed, silent

Names = Mapping[Arm, str]


def findings(results: Results, compared: Sequence[Comparison], names: Names) -> tuple[Finding, ...]:
    """What could spoil the comparison first, then the supported differences, then what shows none, by measure."""
    found = [*_premises(results, compared)]
    found += [_difference(one, results, names, len(compared)) for one in compared if one.is_different]
    for measure in dict.fromkeys(one.measure for one in compared):
        rest = [one for one in compared if one.measure == measure and not one.is_different]
        if rest:
            found.append(_no_difference(rest, results, names, len(compared)))
    return tuple(found)


def _premises(results: Results, compared: Sequence[Comparison]) -> list[Finding]:
    found = []
    if len(results.seeds) < SEEDS:
        found.append(
            Finding(
                "CMP001",
                "warning",
                f"{len(results.seeds)} seed{'s are' if len(results.seeds) > 1 else ' is'} too few for a verdict; "
                "intervals are shown, differences are not judged.",
                "A loss is better only if it is better whatever the seed; how much seeds differ cannot be told from "
                "fewer than three.",
                f"sftloss compare --seeds {ENOUGH}",
            )
        )
    elif len(results.seeds) < ENOUGH and compared:
        found.append(
            Finding(
                "CMP004",
                "info",
                f"With {len(results.seeds)} seeds only very large differences become verdicts: where seeds are what "
                f"varies, those above {compared[0].errors_needed:.0f} standard errors.",
                "So few seeds may agree by chance, and an interval that is right as often as it says must allow for "
                "it. The further seeds of a folder are trained alone; what is there is kept.",
                f"sftloss compare --seeds {ENOUGH}",
            )
        )
    tokens = {(r.tokens, r.steps) for arm in results.arms for r in results.of(arm)}
    by_seed = {
        seed: {results.by_run[key].tokens for key in results.by_run if key.seed == seed} for seed in results.seeds
    }
    if any(len(values) > 1 for values in by_seed.values()):
        low, high = min(t for t, _ in tokens), max(t for t, _ in tokens)
        found.append(
            Finding(
                "CMP002",
                "error",
                f"Arms of one seed were given unequally many tokens: {low:,} to {high:,}.",
                "What differs may then be the amount of training.",
                "Remove the arms' folders and train them again.",
            )
        )
    if len({tuple(sorted(r.versions.items())) for arm in results.arms for r in results.of(arm)}) > 1:
        found.append(
            Finding(
                "CMP003",
                "warning",
                "Arms were trained under different versions of Python packages.",
                "Numbers of one seed are then not exactly paired.",
                "Choose a new --output to train all arms under one version.",
            )
        )
    return found


def _difference(one: Comparison, results: Results, names: Names, count: int) -> Finding:
    return Finding(
        "CMP010",
        "info",
        said(one, (names[one.arm], names[results.arms[0]])),
        f"Paired over examples and {len(results.seeds)} seeds. {_corrected(one, count)}",
        value=one.difference.value,
        interval=_interval(one),
        unit="ratio" if one.measure.kind == "ratio" else "share" if one.measure.kind == "percent" else one.measure.unit,
    )


def _corrected(one: Comparison, count: int) -> str:
    if count == 1:
        return "One comparison was made."
    return f"{count} comparisons were made; their {100 * one.level:.2f}% intervals hold all together at 95%."


def _interval(one: Comparison) -> Interval | None:
    bounds = one.difference.interval(one.level)
    return None if bounds is None else replace(bounds, level=round(bounds.level, 4))


def _no_difference(rest: Sequence[Comparison], results: Results, names: Names, count: int) -> Finding:
    measure, reference = rest[0].measure, names[results.arms[0]]
    settled = [one for one in rest if one.is_settled]
    if len(rest) == 1:
        sentence = silent(rest[0], (names[rest[0].arm], reference)) if settled else _unjudged(rest, names, reference)
    elif not settled:
        sentence = _unjudged(rest, names, reference)
    else:
        least = max(one.difference.detectable(one.level) for one in settled)
        sentence = (
            f"No difference in {measure.name} that this data can show between {reference} and each of "
            f"{listed(tuple(names[one.arm] for one in rest))}; a difference of about {number(least, measure)} would "
            "have been found in 4 of 5 such experiments."
        )
    return Finding(
        "CMP020",
        "info",
        sentence,
        f"No proof of equality: smaller differences may be there. {_corrected(rest[0], count)}",
    )


def _unjudged(rest: Sequence[Comparison], names: Names, reference: str) -> str:
    measure: Measure = rest[0].measure
    told = "; ".join(f"{names[one.arm]} {signed(one.difference.value, measure)}" for one in rest)
    return f"No verdict on {measure.name} against {reference}, the data is too little: {told}."


def headlines(results: Results, compared: Sequence[Comparison], names: Names) -> tuple[str, ...]:
    """How many differences are supported, the clearest of each arm, and the lengths predicted and generated."""
    shown = [one for one in compared if one.is_different]
    reference = names[results.arms[0]]
    arms = f"{len(results.arms)} arms with {len(results.seeds)} seed{'s' if len(results.seeds) > 1 else ''}"
    if not shown:
        lines = [f"{arms}: no difference from {reference} that this data can show, in {len(compared)} comparisons."]
    else:
        lines = [f"{arms}: {len(shown)} of {len(compared)} comparisons with {reference} show a difference."]
    if any(one.measure.task for one in compared):  # one task pays for another: the whole, not the clearest of each arm
        lines.append(f"Against {reference}: {conclusion(compared, names)}")
    elif shown:
        strongest = sorted(shown, key=lambda one: -abs(one.difference.value) / (one.difference.error or 1e-300))
        first_of_arm = {one.arm: one for one in reversed(strongest)}  # the strongest of each arm
        lines += [said(first_of_arm[arm], (names[arm], reference)) for arm in results.arms if arm in first_of_arm][:3]
    return (*lines, *_length_line(results, names))


def _length_line(results: Results, names: Names) -> tuple[str, ...]:
    parts = []
    for arm in results.arms:
        told = forecast_ratio(results, arm)
        seen = results.mean(arm, "length_ratio")
        if told is not None and seen is not None:
            parts.append((names[arm], told, seen.value))
    if len({round(told, 3) for _, told, _ in parts}) < 2:
        return ()
    said_parts = "; ".join(f"{name} {told:.2f}× predicted, {seen:.2f}× generated" for name, told, seen in parts)
    return (f"Answer length against the data: {said_parts}.",)


def forecast_ratio(results: Results, arm: Arm) -> float | None:
    """Predicted mean length over the data's, given the prompt; a statement about cross-entropy only."""
    if arm.loss != "cross_entropy":
        return None
    forecast = results.of(arm)[0].forecasts.get("")
    return None if forecast is None or not forecast.data > 0 else forecast.within_prompt / forecast.data
