"""An inspection from end to end: from rows and a tokenizer to a report about masks and texts. No model is run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftloss.pipeline.analyze import with_run
from sftloss.pipeline.folder import folder
from sftloss.pipeline.run import Run, records_of

if TYPE_CHECKING:
    from sftloss.analysis.mask.inspect import InspectOptions
    from sftloss.report import Report


def inspect(
    rows: str | Path | Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    question: InspectOptions | None = None,
    run: Run | None = None,
) -> Report:
    """What is trained on, and whether the mask is right, from the tokenizer alone.

    Args:
        rows: A data file, a folder, a hub data set, or rows as mappings, in any of the usual formats.
        tokenizer: A transformers tokenizer with the chat template that training will use.
        question: How many examples are shown, the size of a step. None takes the defaults.
        run: Which rows, the chat template, the length to cut to, where results go. Rows that cannot be used are
            findings, however many they are; ``on_error="raise"`` stops at the first one.

    Returns:
        The report: findings about mask and data, counts, lengths, and examples token by token.

    Raises:
        ConfigError: If an option cannot be used, or the output folder is taken.
        DataError: If there is no row, or with ``on_error="raise"`` at the first row that cannot be used.

    Example:
        >>> from sftloss.data.demo import demo_tokenizer
        >>> rows = [{"prompt": "copy: red", "response": "red"}, {"prompt": "copy: fig"}]
        >>> report = inspect(rows, demo_tokenizer())
        >>> report.document.headlines[0]
        '1 of 2 rows can be trained on; 2 of 13 tokens are trained (15 %), 2 an example.'
        >>> [(finding.id, finding.rows) for finding in report.document.findings]
        [('DATA009', ('row 1',))]
    """
    from sftloss.analysis.mask.inspect import inspect_records
    from sftloss.data import encoding_of
    from sftloss.report import Report
    from sftloss.report.language import in_language

    run = run or Run()
    policy = "raise" if run.on_error == "raise" else "count"
    with folder(run, rows, resumes=False) as place:
        records = records_of(rows, run, on_error=policy)
        document = inspect_records(records, tokenizer, question, progress=run.progress, **encoding_of(run))
        document = with_run(document, run.command)
        document = replace(document, provenance=(*run.provenance, *document.provenance))
        report = Report(in_language(document, run.lang))
        place.write(report)
    return report
