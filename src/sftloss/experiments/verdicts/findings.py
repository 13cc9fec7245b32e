"""Verdicts as findings and headlines: what the intervals support, and what they do not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sftloss.document import Finding, Interval
from sftloss.experiments.experiment import Arm
from sftloss.experiments.pages.words import conclusion, counted, listed, number, said, signed, unit
from sftloss.experiments.verdicts.verdicts import ENOUGH, SEEDS, SHIFT, Comparison, Results, tilt

Names = Mapping[Arm, str]
_NAMED = 3  # more arms are counted, not listed


def findings(results: Results, compared: Sequence[Comparison], names: Names, command: str = "") -> tuple[Finding, ...]:
    """What could spoil the comparison first, then the supported differences, then all that shows none."""
    reference, count = names[results.arms[0]], len(compared)
    found = [*_premises(results, compared, command)]
    found += [_difference(one, results, names, count) for one in compared if one.is_different]
    equal = [one for one in compared if one.is_settled and not one.is_different]
    if equal:
        every = "any comparison" if len(equal) == count else f"{len(equal)} of {count} comparisons"
        found.append(
            Finding(
                "CMP020",
                "info",
                f"No difference from {reference} that this data can show in {every}.",
                f"{_could_show(equal, compared, names)} No proof of equality: smaller differences may be there. "
                f"{_corrected(equal[0], count)}",
            )
        )
    rest = [one for one in compared if not one.is_settled]
    if rest:
        found.append(Finding("CMP021", "info", _unjudged(rest, names, reference), "A verdict needs an interval over "
                             f"at least {SEEDS} seeds."))  # fmt: skip
    return tuple(found)


def _more_seeds(command: str) -> str:
    """The same comparison with seeds enough: its own command, or words where it was not asked for by one."""
    if not command.startswith("sftloss compare"):
        return f"Give it {ENOUGH} seeds."
    return f"{re.sub(r' --seeds [0-9]+', '', command)} --seeds {ENOUGH}"


def _premises(results: Results, compared: Sequence[Comparison], command: str) -> list[Finding]:
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
                _more_seeds(command),
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
                _more_seeds(command),
            )
        )
    by_seed = zip(*([r.tokens for r in results.of(arm)] for arm in results.arms), strict=True)
    if any(len(set(values)) > 1 for values in by_seed):
        every = [r.tokens for arm in results.arms for r in results.of(arm)]
        found.append(
            Finding(
                "CMP002",
                "error",
                f"Arms of one seed were given unequally many tokens: {min(every):,} to {max(every):,}.",
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
    value, low, high = counted(one)
    assert low is not None and high is not None
    return Finding(
        "CMP010",
        "info",
        said(one, (names[one.arm], names[results.arms[0]])),
        f"Paired over examples and {len(results.seeds)} seeds. {_corrected(one, count)}",
        value=value,
        interval=Interval(low, high, round(one.level, 4)),
        unit="ratio" if one.measure.kind == "ratio" else unit(one.measure),
    )


def _corrected(one: Comparison, count: int) -> str:
    if count == 1:
        return "One comparison was made."
    return f"{count} comparisons were made; their {100 * one.level:.2f}% intervals hold all together at 95%."


def _could_show(equal: Sequence[Comparison], compared: Sequence[Comparison], names: Names) -> str:
    """One sentence for all measures, each with the difference that would have been found."""
    arms = tuple(dict.fromkeys(one.arm for one in compared))
    told = []
    for measure in dict.fromkeys(one.measure for one in equal):
        ours = [one for one in equal if one.measure == measure]
        sizes = [one.detectable for one in ours]
        least = "none, however large" if None in sizes else number(max(s for s in sizes if s is not None), measure)
        where = listed(tuple(names[one.arm] for one in ours)) if len(ours) <= _NAMED else f"{len(ours)} arms"
        told.append(f"{measure.name} {least}" + (f" ({where})" if len(ours) < len(arms) else ""))
    return f"Differences that 4 of 5 such experiments would have found are about: {'; '.join(told)}."


def _unjudged(rest: Sequence[Comparison], names: Names, reference: str) -> str:
    told = []
    for measure in dict.fromkeys(one.measure for one in rest):
        ours = [one for one in rest if one.measure == measure]
        if len(ours) <= _NAMED:
            values = ", ".join(f"{names[one.arm]} {signed(one.difference.value, measure)}" for one in ours)
            told.append(f"{measure.name} ({values})")
        else:
            told.append(f"{measure.name} ({len(ours)} arms)")
    return f"No verdict against {reference}, the data is too little: {'; '.join(told)}."


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
    for arm in results.arms[1:]:
        told, seen = relative_forecast(results, arm), results.relative(arm, "length_ratio")
        if told is not None and seen is not None and abs(told - 1.0) >= SHIFT:
            parts.append(f"{names[arm]} {told:.2f}× predicted, {seen.value:.2f}× generated")
    if not parts:
        return ()
    return (f"Answer length against {names[results.arms[0]]}: {'; '.join(parts)}.",)


def relative_forecast(results: Results, arm: Arm, task: str = "", *, is_bound: bool = False) -> float | None:
    """Predicted mean length over the first arm's; a statement about cross-entropy only.

    Given the prompt, or the bound where the prompt says nothing about length.
    """
    first = results.arms[0]
    if {arm.loss, first.loss} != {"cross_entropy"}:
        return None
    ours, firsts = (tilt(results.of(one)[0].forecasts.get(task), is_bound=is_bound) for one in (arm, first))
    return ours / firsts if ours is not None and firsts else None
