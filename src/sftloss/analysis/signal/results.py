"""What an analysis found as data frames: one row an example, and every table of its report."""

from __future__ import annotations

import numpy as np
import polars as pl

from sftloss.analysis.signal.frames import SignalStudy
from sftloss.document import Command, Document, Table

_FACTS = ("example", "path", "row", "line", "task", "language", "source", "n_tokens", "truncated")


def frames(study: SignalStudy, document: Document) -> dict[str, pl.DataFrame]:
    """The tables of `document` by their ids, and ``examples``: where each is from, its losses, its share of the signal.

    ``loss:EXPR`` is the mean loss of an example's trained tokens, weighted as they are, null where none is trained;
    ``signal`` is its share at the level and under the loss and normalization of the options.
    """
    signal = study.signal(study.view, study.options.level)
    size = np.where(study.size > 0, study.size, np.nan)
    found = [
        pl.Series("trained_tokens", study.column("count").astype(np.int64)),
        pl.Series("weight", study.size),
        *(pl.Series(f"loss:{name}", study.column(f"loss:{name}") / size).fill_nan(None) for name in study.objectives),
        pl.Series("signal", signal / signal.sum() if signal.sum() > 0 else signal),
    ]
    examples = study.base.select([name for name in _FACTS if name in study.base.columns]).with_columns(found)
    tables = (table for section in document.sections for table in section.tables)
    return {**{table.id: _frame(table) for table in tables}, "examples": examples}


def _frame(table: Table) -> pl.DataFrame:
    rows = [[str(value) if isinstance(value, Command) else value for value in row] for row in table.rows]
    return pl.DataFrame(rows, schema=[column.key for column in table.columns], orient="row", strict=False)
