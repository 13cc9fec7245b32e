"""The report on output length: findings, three headlines, sections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sftloss import numbers
from sftloss.analysis.lengths import findings as wording
from sftloss.analysis.lengths.answers import ready
from sftloss.analysis.lengths.findings import Shift
from sftloss.analysis.lengths.forecast import LengthOptions
from sftloss.analysis.lengths.sections import (
    distribution_section,
    evidence_section,
    forecast_section,
    method_section,
    target_section,
)
from sftloss.analysis.lengths.study import LengthStudy, Origins
from sftloss.analysis.lengths.tilt import Lengths, sequence_weights
from sftloss.document import Document, Finding, by_severity
from sftloss.errors import DataError
from sftloss.weights import EXAMPLE_MEAN, TOKEN_MEAN, Normalization
from sftloss.words import number, percent


def describe_lengths(
    lengths: Lengths,
    options: LengthOptions | None = None,
    *,
    origins: Origins | None = None,
    facts: Sequence[tuple[str, str]] = (),
) -> Document:
    """Which output lengths each normalization teaches, from the lengths alone; no model is run.

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
        >>> [(row[0], round(row[1], 3)) for row in page.sections[0].tables[0].rows]
        [('token mean', 8.5), ('sqrt', 7.29), ('example mean', 6.039)]
    """
    options, kept = options or LengthOptions(), ready(lengths)
    count = len(np.unique(lengths.ids))
    if not len(kept.ids):
        why = f"all {kept.cut} trained answers are cut off" if kept.cut else "none has a trained token"
        raise DataError(f"describe_lengths: no answer of {count} examples has a length: {why}.")
    study = LengthStudy(kept, count, options, origins)
    sections = [forecast_section(study), evidence_section(study), distribution_section(study)]
    if options.target_mean is not None:
        sections.insert(1, target_section(study))
    return Document(
        "Which output lengths each normalization teaches",
        _headlines(study),
        _findings(study),
        (*sections, method_section(study)),
        (*facts, *_facts(study)),
        (("bootstrap", f"{options.replicates} replicates, seed {options.seed}"),),
    )


def _headlines(study: LengthStudy) -> tuple[str, ...]:
    unit = study.options.unit
    said = ", ".join(f"{one.normalization.name} {number(one.unconditional.value)}" for one in study.forecasts)
    first = f"Mean length learned if the prompt says nothing about length: {said} {unit}."
    if study.reason:
        second = f"Whether it shifts here this data cannot tell: {study.reason}."
    else:
        seen = "one answer to a prompt shows no shift, so this is what the data shows, not all there may be"
        given = ", ".join(
            f"{one.normalization.name} {number(one.within_prompt.value)}"
            for one in study.forecasts
            if one.within_prompt is not None
        )
        second = (
            f"Given the prompt: {given} {unit}; {percent(study.seen_share.value)} of the answers share their prompt "
            f"with an answer of another length ({seen})."
        )
    third = "Dividing by length favours short answers; the sum, or one token mean over all the data, favours neither."
    return (first, second, third)


def _shift(study: LengthStudy, rule: Normalization) -> Shift:
    found = study.forecast(rule)
    within = None if found.within_prompt is None else found.within_prompt.value
    return Shift(study.data.value, found.unconditional, within, study.reason, study.options.unit)


def _findings(study: LengthStudy) -> tuple[Finding, ...]:
    used = study.used
    found = [wording.example_mean_finding(_shift(study, EXAMPLE_MEAN), is_used=used == EXAMPLE_MEAN)]
    smallest = min(
        (one for one in study.options.all_normalizations() if one.micro_batch is not None),
        key=lambda one: one.micro_batch or 0,
        default=None,
    )
    if smallest is not None:
        shift = _shift(study, smallest)
        found.append(wording.micro_batch_finding(smallest.micro_batch or 1, shift, is_used=used == smallest))
    if study.answers.seen.any():
        rows = study.rows(np.flatnonzero(study.answers.seen))
        found.append(wording.conflict_finding(study.seen_share.value, study.seen_share.interval, rows))
    found.append(_concentrated(study, used or TOKEN_MEAN))
    return by_severity(finding for finding in found if finding is not None)


def _concentrated(study: LengthStudy, rule: Normalization) -> Finding | None:
    """NORM004 on the nominal signal: the coefficients an example receives."""
    size, ids = study.answers.sizes, study.answers.examples
    if len(size) < 100:
        return None  # the top 1 % is not one example
    signal = size * sequence_weights(size, rule)
    top = ids[np.lexsort((ids, -signal))[:10]]
    rows = () if study.origins is None else study.origins(top)
    top_share = numbers.top_share(signal, 0.01)
    return wording.concentration_finding(numbers.kish_ess(signal) / len(signal), top_share, "S0", rows)


def _facts(study: LengthStudy) -> tuple[tuple[str, str], ...]:
    answers = study.answers
    told = [("examples", f"{study.count:,}"), ("with trained text", f"{len(answers.examples):,}")]
    if len(answers.ids) + answers.cut != len(answers.examples):
        told.append(("trained answers", f"{len(answers.ids) + answers.cut:,}"))
    if answers.cut:
        told.append(("answers cut off, left out here", f"{answers.cut:,}"))
    if answers.prompts is not None and answers.has_prompt.any():
        told.append(("distinct prompts", f"{len(np.unique(answers.prompts[answers.has_prompt])):,}"))
    return (*told, ("lengths count", study.options.unit))
