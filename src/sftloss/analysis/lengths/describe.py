"""The report on output length: findings, three headlines, sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sftloss.analysis.lengths.answers import ready
from sftloss.analysis.lengths.forecast import WITHIN, LengthOptions, LengthStudy, Origins
from sftloss.analysis.lengths.rules import LENGTHS_RULES
from sftloss.analysis.lengths.sections import (
    distribution_section,
    evidence_section,
    forecast_section,
    means_chart,
    method_section,
)
from sftloss.analysis.lengths.target import target_section
from sftloss.analysis.lengths.tilt import Lengths
from sftloss.analysis.shared import fixes
from sftloss.analysis.shared.shares import cell
from sftloss.analysis.shared.words import WHERE_IN_THE_RANGE
from sftloss.document import Column, Document, Section, Table, by_severity
from sftloss.errors import DataError
from sftloss.rules import findings_of
from sftloss.words import number, percent

ANSWER_RULES = 6  # normalizations in the answer


def describe_lengths(
    lengths: Lengths,
    options: LengthOptions | None = None,
    *,
    origins: Origins | None = None,
    facts: Sequence[tuple[str, str]] = (),
) -> Document:
    """The predicted output lengths under each normalization, from the lengths alone; no model is run.

    Args:
        lengths: Each answer's length, prompt and task; arrays of shape ``(answers,)``. Prompts are what the shift
            is conditioned on: without them only its upper bound is known.
        options: The normalizations, the size of a step, a wanted mean length.
        origins: From ids of examples to "file:line"; findings then list rows.
        facts: Label and value pairs for the top of the report.

    Returns:
        The document. The order of rows changes nothing but the last bits of sums.

    Raises:
        DataError: If there is no trained answer of known length.

    Example:
        >>> import numpy as np
        >>> size = np.arange(2.0, 16.0)
        >>> page = describe_lengths(Lengths(np.arange(14), size, size))
        >>> [(row[0], round(row[1], 3)) for row in page.details[0].tables[0].rows]
        [('token mean', 8.5), ('sqrt', 7.29), ('example mean', 6.039)]
    """
    options, kept = options or LengthOptions(), ready(lengths)
    count = len(np.unique(lengths.ids))
    if not len(kept.ids):
        why = f"all {kept.cut:,} trained answers are cut off" if kept.cut else "none has a trained token"
        raise DataError(f"no answer of {count:,} examples has a length: {why}")
    study = LengthStudy(kept, count, options, origins)
    forecasts = replace(forecast_section(study), charts=())  # the answer has its chart
    targets = [] if options.target_mean is None else [target_section(study)]
    answer = _answer(study)
    if targets:  # what was asked comes first
        answer = replace(answer, lead=f"{targets[0].lead} {answer.lead}")
    sections = (answer, *targets, forecasts, evidence_section(study), distribution_section(study))
    return Document(
        "Output lengths under each normalization",
        (_headline(study),),
        by_severity(findings_of(LENGTHS_RULES, study)),
        (*sections, method_section(study)),
        (*facts, *_facts(study)),
        (("bootstrap", f"{options.replicates:,} replicates, seed {options.seed}"),),
    )


def _answer(study: LengthStudy) -> Section:
    """The verdict, the numbers and the settings: at most six normalizations."""
    unit, data = study.options.unit, number(study.data.value)
    ranges = [(rule, study.range_of(rule)) for rule in study.options.all_normalizations()]
    rule, far = max(ranges, key=lambda pair: abs(pair[1].largest_shift))
    lead = f"Every normalization keeps the data's mean answer length of {data} {unit}."
    if study.reason:  # the headline says that more data may differ
        lead = f"In these answers alone, every normalization keeps the mean length of {data} {unit}."
    if abs(far.largest_shift) >= 0.005:
        lead = (
            f"The data's mean answer length is {data} {unit}. Predicted under {rule.name}: {far.words()}. To keep the "
            f"data's lengths, use {fixes.alpha(0)}: dividing by length favours short answers."
        )
    rows = tuple(
        (
            rule.name,
            *map(cell, (of.within_prompt, of.whole, of.largest_shift)),
            fixes.alpha(rule.alpha) if rule.micro_batch is None else None,
        )
        for rule, of in ranges[:ANSWER_RULES]
    )
    columns = (
        Column("normalization", "normalization"),
        Column("given_prompt", f"mean {unit} {WITHIN}", "number"),
        Column("bound", f"mean {unit} at the bound", "number"),
        Column("shift", "shift at the bound", "percent"),
        Column("how", "setting"),
    )
    note = f"{len(ranges) - ANSWER_RULES} more are in Predicted output length." if len(ranges) > ANSWER_RULES else ""
    table = Table("answer", "Predicted means and settings", columns, rows, note)
    return Section("answer", "Answer", lead, charts=(means_chart(study),), tables=(table,), notes=(WHERE_IN_THE_RANGE,))


def _headline(study: LengthStudy) -> str:
    if study.reason:
        return f"This data cannot tell how far a normalization moves the output length: {study.reason}."
    return (
        f"{percent(study.seen_share.value)} of the answers share their prompt with an answer of another length. A "
        "prompt with one answer shows no shift, so the true one may be larger."
    )


def _facts(study: LengthStudy) -> tuple[tuple[str, str], ...]:
    answers = study.answers
    facts = [("examples", f"{study.count:,}"), ("with trained text", f"{len(answers.examples):,}")]
    if len(answers.ids) + answers.cut != len(answers.examples):
        facts.append(("trained answers", f"{len(answers.ids) + answers.cut:,}"))
    if answers.cut:
        facts.append(("answers cut off, not counted", f"{answers.cut:,}"))
    if answers.prompts is not None and answers.has_prompt.any():
        facts.append(("distinct prompts", f"{len(np.unique(answers.prompts[answers.has_prompt])):,}"))
    return (*facts, ("lengths count", study.options.unit))
