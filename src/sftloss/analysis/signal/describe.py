"""From a table to a document (headlines, findings, sections) and to data frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from sftloss.analysis.signal.frames import SignalStudy, SignalTable, open_study
from sftloss.analysis.signal.gradients import GradientStudy, MeasuredGradients
from sftloss.analysis.signal.rules import findings_of_study, findings_without_signal
from sftloss.analysis.signal.rules.gradient import GRADIENT_RULES
from sftloss.analysis.signal.sections.answer import advice_section, answer_section, signal_headlines
from sftloss.analysis.signal.sections.compare import Decode, comparison_section, influential_section, strips_section
from sftloss.analysis.signal.sections.gradient import gradient_section
from sftloss.analysis.signal.sections.groups import group_section
from sftloss.analysis.signal.sections.length import appendix_section, length_section, tilt_section
from sftloss.analysis.signal.sections.tokens import confidence_section, positions_section, roles_section
from sftloss.analysis.signal.views import LEVELS, AnalysisOptions
from sftloss.document import Command, Document, Section, Table, by_severity
from sftloss.rules import findings_of

_FACTS = ("example", "path", "row", "line", "task", "language", "source", "n_tokens", "truncated")


def describe_signal(
    table: SignalTable,
    options: AnalysisOptions | None = None,
    *,
    decode: Decode | None = None,
    facts: Sequence[tuple[str, str]] = (),
) -> Document:
    """What a loss and a normalization train on this data, from a measured table alone; no model is run.

    Args:
        table: Lazy frames ``tokens`` and ``examples``, as `measure` writes them.
        options: Which loss and normalization are trained, and what they are compared with.
        decode: Token ids to one text a token, for the examples shown token by token; ids are shown without it.
        facts: Label and value pairs for the top of the report, such as the model's name.

    Returns:
        The document: equal tables and options give equal documents, whatever the order of rows.

    Raises:
        DataError: If the table has no example or lacks the loss that the options name.
    """
    return _document(open_study(table, options or AnalysisOptions()), decode, facts)


def describe_signal_with_frames(
    table: SignalTable,
    options: AnalysisOptions | None = None,
    *,
    decode: Decode | None = None,
    facts: Sequence[tuple[str, str]] = (),
    gradients: Callable[[SignalStudy], MeasuredGradients] | None = None,
) -> tuple[Document, dict[str, pl.DataFrame]]:
    """As :func:`describe_signal`, and the same as data frames: each table by its id, and ``examples``, one row each.

    Args:
        table, options, decode, facts: As :func:`describe_signal`.
        gradients: Measures the gradients of some examples, once the table is read; None measures none.
    """
    study = open_study(table, options or AnalysisOptions())
    document = _document(study, decode, facts)
    if gradients is not None and (study.size > 0).any():
        measured = GradientStudy(study, gradients(study))
        findings = by_severity((*document.findings, *findings_of(GRADIENT_RULES, measured)))
        sections = (*document.sections[:-1], gradient_section(measured, decode), document.sections[-1])
        document = replace(document, findings=findings, sections=sections)
    return document, _frames(study, document)


def _document(study: SignalStudy, decode: Decode | None, facts: Sequence[tuple[str, str]]) -> Document:
    options = study.options
    if not (study.size > 0).any():
        return _nothing_trained(study, decode, facts)
    return Document(
        options.title,
        signal_headlines(study),
        findings_of_study(study),
        tuple(_sections(study, decode)),
        (*facts, *_facts(study)),
        (("bootstrap", f"{options.replicates:,} replicates over prompts, seed {options.seed}"),),
    )


def _sections(study: SignalStudy, decode: Decode | None) -> list[Section]:
    groups = [section for column in study.options.group_by if (section := group_section(study, column))]
    return [
        answer_section(study),
        length_section(study),
        tilt_section(study),
        roles_section(study),
        positions_section(study),
        *groups,
        confidence_section(study),
        comparison_section(study),
        influential_section(study),
        advice_section(study),
        strips_section(study, decode),
        appendix_section(study),
        _method(study),
    ]


def _method(study: SignalStudy) -> Section:
    notes = (
        "A token's coefficient is c = u T^-alpha / Z: u its weight, T the sum of its example's weights, Z such that "
        "all coefficients sum to 1.",
        *LEVELS.values(),
        "The levels disagree; each section names its own. Only S3 is the gradient of the parameters (--signal grad).",
        "Intervals: 95 %, studentized bootstrap over prompts (examples with the same first prompt together), the same "
        "draws for all groups. A share of fewer than 10 of them has none.",
        "Verdicts on a policy use a region of practical equivalence of \u00b1 0.1, not a test against zero.",
    )
    lead = f"Signal is reported at level {study.options.level} unless a section says otherwise."
    return Section("method", "Method", lead, notes=notes)


def _facts(study: SignalStudy) -> tuple[tuple[str, str], ...]:
    weights = ", ".join(f"{role} {weight:g}" for role, weight in study.options.role_weights or ())
    return (
        ("loss", study.view.label),
        ("compared losses", ", ".join(study.objectives)),
        ("examples", f"{len(study.ids):,}"),
        ("trained tokens", f"{int(study.column('count').sum()):,}"),
        ("signal level", LEVELS[study.options.level]),
        *((("role weights", f"{weights}; other roles 0"),) if weights else ()),
    )


def _nothing_trained(study: SignalStudy, decode: Decode | None, facts: Sequence[tuple[str, str]]) -> Document:
    """Without a trained token, or with none whose loss is finite, there is one thing to say: shares are undefined."""
    headline = f"None of the {len(study.ids)} examples has a trained token: this training would learn nothing."
    if broken := int(study.column("nonfinite").sum()):
        headline = (
            f"All {broken:,} trained tokens have a NaN or infinite loss or gradient, so there is no signal: "
            "check the model's weights and its precision."
        )
    return Document(
        study.options.title,
        (headline,),
        findings_without_signal(study),
        (strips_section(study, decode), _method(study)),
        (*facts, *_facts(study)),
    )


def _frames(study: SignalStudy, document: Document) -> dict[str, pl.DataFrame]:
    """The tables of `document` by their ids, and ``examples``: where each is from, its losses, its share of the signal.

    ``loss:EXPR`` is the mean loss of an example's trained tokens, weighted as they are, null where none is trained;
    ``signal`` is its share at the level and under the loss and normalization of the options.
    """
    signal = study.signal(study.view, study.options.level)
    size = np.where(study.size > 0, study.size, np.nan)
    columns = [
        pl.Series("trained_tokens", study.column("count").astype(np.int64)),
        pl.Series("weight", study.size),
        *(pl.Series(f"loss:{name}", study.column(f"loss:{name}") / size).fill_nan(None) for name in study.objectives),
        pl.Series("signal", signal / signal.sum() if signal.sum() > 0 else signal),
    ]
    examples = study.base.select([name for name in _FACTS if name in study.base.columns]).with_columns(columns)
    tables = (table for section in document.sections for table in section.tables)
    return {**{table.id: _frame(table) for table in tables}, "examples": examples}


def _frame(table: Table) -> pl.DataFrame:
    rows = [[str(value) if isinstance(value, Command) else value for value in row] for row in table.rows]
    return pl.DataFrame(rows, schema=[column.key for column in table.columns], orient="row", strict=False)
