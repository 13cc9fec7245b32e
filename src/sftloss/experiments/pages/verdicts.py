"""All comparisons: one forest plot per measure, one table, and for task weightings a table task by task."""

from __future__ import annotations

from collections.abc import Sequence

from sftloss.document import Chart, Column, Section, Series, Table
from sftloss.experiments.pages.tables import EMPTY, in_parts, triple_columns
from sftloss.experiments.verdicts.comparisons import Comparison, Measure, Results
from sftloss.experiments.verdicts.findings import FEW_DECIDE, task_conclusion
from sftloss.words import confidence


def verdicts_section(results: Results, compared: Sequence[Comparison]) -> Section:
    """The differences from the first arm, with and without a verdict."""
    if not compared:
        return Section("comparison-verdicts", "Differences from the first arm", "There is nothing to compare.")
    shown, level = sum(one.is_different for one in compared), compared[0].level
    judged = f"{shown} of {len(compared)} comparisons with {results.reference} show a difference."
    if not any(one.is_judged for one in compared):
        judged = f"There is too little data to judge the {len(compared)} comparisons with {results.reference}."
    lead = (
        f"{judged} Each is paired: same held-out examples, same seeds. The {confidence(level)} intervals hold all "
        "together with 95 % confidence."
    )
    measures = dict.fromkeys(one.measure for one in compared)
    charts = tuple(_forest(measure, compared, results) for measure in measures)
    return Section("comparison-verdicts", "Differences from the first arm", lead, charts=charts,
                   tables=(_table(compared, results),))  # fmt: skip


def _forest(measure: Measure, compared: Sequence[Comparison], results: Results) -> Chart:
    ours = {one.arm: one for one in compared if one.measure == measure}
    arms = tuple(results.names[arm] for arm in ours)
    values = "; ".join(f"{results.names[arm]} {measure.signed(one.difference.value)}" for arm, one in ours.items())
    unit = f", {measure.unit}" if measure.unit else ""
    better = f" ({measure.better} is better)" if measure.better else ""
    series = (
        _points("difference shown", [one if one.is_different else None for one in ours.values()], arms),
        _points(
            "no difference shown",
            [one if one.is_judged and not one.is_different else None for one in ours.values()],
            arms,
            True,
        ),
        _points("not judged", [None if one.is_judged else one for one in ours.values()], arms, True),
        Series("zero", arms, (0.0,) * len(arms), is_reference=True),
    )
    return Chart(
        f"forest-{measure.id}",
        "point",
        f"{measure.name[0].upper()}{measure.name[1:]}",
        f"against {results.reference}",
        f"difference{unit}{better}",
        tuple(one for one in series if any(y is not None for y in one.y)),
        f"Differences from {results.reference}: {values}.",
        bounds=f"{confidence(compared[0].level)} interval",
    )


def _points(label: str, ours: Sequence[Comparison | None], arms: tuple[str, ...], is_faint: bool = False) -> Series:
    """Some of the comparisons, with gaps for the others."""
    y, low, high = zip(*((None, None, None) if one is None else one.in_unit for one in ours), strict=True)
    return Series(label, arms, y, low, high, is_faint=is_faint)


def _table(compared: Sequence[Comparison], results: Results) -> Table:
    rows = []
    for one in compared:
        verdict = "different" if one.is_different else "no difference shown" if one.is_judged else "too few seeds"
        least = None if one.detectable is None else one.measure.scale * one.detectable
        note = FEW_DECIDE.lower() if one.difference.is_fragile else ""
        rows.append((one.measure.name, results.names[one.arm], *one.in_unit, verdict, one.prompts, least,
                     one.measure.unit, note))  # fmt: skip
    columns = (
        Column("measure", "measure"),
        Column("arm", "arm"),
        *triple_columns("difference", "difference", help="Arm minus first arm."),
        Column("verdict", "verdict"),
        Column("prompts", "prompts", "integer", "Different prompts behind the number."),
        Column("detectable", "detectable", "number",
               "Smallest true difference that 80 % of such experiments find; empty where none in range would be."),
        Column("unit", "unit"),
        Column("note", "note", help="Where few examples decide, the interval may miss more often than stated."),
    )  # fmt: skip
    return Table("comparisons", "All comparisons", columns, tuple(rows))


def by_task_section(results: Results, compared: Sequence[Comparison]) -> Section | None:
    """Every arm against the first, task by task, in one row; None where arms do not weight tasks differently."""
    measures = tuple(dict.fromkeys(one.measure for one in compared if one.measure.key == "token_nll"))
    if not any(measure.task for measure in measures):
        return None
    rows = []
    for arm in dict.fromkeys(one.arm for one in compared):
        ours = {one.measure: one for one in compared if one.arm == arm}
        verdicts = [
            f"{measure.task or 'all'} {'higher' if ours[measure].difference.value > 0 else 'lower'}"
            for measure in measures
            if measure in ours and ours[measure].is_different
        ]
        cells = (cell for m in measures for cell in (ours[m].in_unit if m in ours else EMPTY))
        none = "no difference shown" if any(one.is_judged for one in ours.values()) else "too few seeds"
        rows.append((results.names[arm], *cells, ", ".join(verdicts) or none))
    values = (column for measure in measures for column in triple_columns(measure.id, measure.task or "all tokens"))
    columns = (Column("arm", "arm"), *values, Column("verdict", "verdict"))
    return Section(
        "comparison-tasks",
        "Task by task",
        task_conclusion(compared, results),
        tables=in_parts(Table("by-task", "Held-out loss: difference from the first arm", columns, tuple(rows))),
        notes=("Nats per token. The intervals of all verdicts hold all together with 95 % confidence.",),
    )
