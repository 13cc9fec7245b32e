"""Every comparison that was made: as a forest plot a measure, and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from sftloss.document import Chart, Column, Section, Series, Table
from sftloss.experiments.pages.words import counted, in_unit, signed, unit
from sftloss.experiments.verdicts.findings import Names
from sftloss.experiments.verdicts.verdicts import Comparison, Measure, Results


def verdicts(results: Results, compared: Sequence[Comparison], names: Names) -> Section:
    """The differences from the first arm, those with a verdict told from those without."""
    measures = tuple(dict.fromkeys(one.measure for one in compared))
    shown = sum(one.is_different for one in compared)
    level = compared[0].level if compared else 0.95
    reference = names[results.arms[0]]
    lead = (
        f"{shown} of {len(compared)} comparisons with {reference} show a difference. Each is paired: the same "
        f"held-out examples, the same seeds. Intervals of {100 * level:.2f}% hold all together at 95%."
    )
    if not compared:
        lead = "There is nothing to compare."
    charts = tuple(_forest(measure, compared, names, reference) for measure in measures)
    return Section("comparison-verdicts", "Differences from the first arm", lead, charts=charts,
                   tables=(_table(compared, names),) if compared else ())  # fmt: skip


def _forest(measure: Measure, compared: Sequence[Comparison], names: Names, reference: str) -> Chart:
    ours = {one.arm: one for one in compared if one.measure == measure}
    arms = tuple(names[arm] for arm in ours)
    told = "; ".join(f"{names[arm]} {signed(one.difference.value, measure)}" for arm, one in ours.items())
    better = f" ({measure.better} is better)" if measure.better else ""
    told_in = f", {unit(measure)}" if unit(measure) else ""
    series = (
        _points("difference shown", [one if one.is_different else None for one in ours.values()], arms),
        _points("no difference shown", [None if one.is_different else one for one in ours.values()], arms, True),
        Series("zero", arms, (0.0,) * len(arms), is_reference=True),
    )
    return Chart(
        f"forest-{measure.id}",
        "point",
        f"{measure.name[0].upper()}{measure.name[1:]}",
        f"against {reference}",
        f"difference{told_in}{better}",
        tuple(one for one in series if any(y is not None for y in one.y)),
        f"Differences from {reference}: {told}.",
        bounds=f"{100 * next(iter(ours.values())).level:.2f}% interval",
    )


def _points(label: str, found: Sequence[Comparison | None], arms: tuple[str, ...], is_faint: bool = False) -> Series:
    """Some of the comparisons, with gaps for the others."""
    drawn = [(None, None, None) if one is None else counted(one) for one in found]
    y, low, high = zip(*drawn, strict=True)
    return Series(label, arms, y, low, high, is_faint=is_faint)


def _table(compared: Sequence[Comparison], names: Names) -> Table:
    rows = []
    for one in compared:
        judged = "different" if one.is_different else "no difference shown" if one.is_settled else "too few seeds"
        least = None if one.detectable is None else in_unit(one.detectable, one.measure)
        rows.append((one.measure.name, names[one.arm], *counted(one), judged, least, unit(one.measure)))
    columns = (
        Column("measure", "measure"),
        Column("arm", "arm"),
        Column("difference", "difference", "number", "Arm minus first arm."),
        Column("difference_low", "low", "number"),
        Column("difference_high", "high", "number"),
        Column("verdict", "verdict"),
        Column("detectable", "detectable", "number",
               "Smallest true difference found in 80% of such experiments; none where no possible one would be."),
        Column("unit", "unit"),
    )  # fmt: skip
    return Table("comparisons", "All comparisons", columns, tuple(rows))
