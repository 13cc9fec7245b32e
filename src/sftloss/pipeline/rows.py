"""Records to examples, with an account of every row that did not become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sftloss.document import Finding
from sftloss.errors import DataError

if TYPE_CHECKING:
    from sftloss.data import Example, ReadReport, Records

_KEPT_ORIGINS = 10
_MOSTLY = 0.5


class Examples:
    """The examples of `records`, once through; afterwards `findings` tells of the rows that were refused."""

    def __init__(self, records: Records, tokenizer: Any, *, max_length: int | None, on_error: str) -> None:
        self._records, self._tokenizer = records, tokenizer
        self._max_length, self._on_error = max_length, on_error
        self._refused: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}
        self._details: dict[str, str] = {}
        self.used = 0

    def __iter__(self) -> Iterator[Example]:
        from sftloss.data import RowError, encode

        for record in self._records:
            try:
                example = encode(record, self._tokenizer, max_length=self._max_length)
            except RowError as error:
                if self._on_error == "raise":
                    raise
                self._refuse(error)
                continue
            self.used += 1
            yield example
        self._judge()

    def _refuse(self, error: Any) -> None:
        self._refused[error.reason] += 1
        self._details.setdefault(error.reason, error.detail)
        places = self._places.setdefault(error.reason, [])
        if len(places) < _KEPT_ORIGINS:
            places.append(str(error.origin))

    def _judge(self) -> None:
        from sftloss.data import CURES

        refused = sum(self._refused.values())
        if not refused or (self.used and (self._on_error == "skip" or refused <= _MOSTLY * (self.used + refused))):
            return
        whole, parts = self.used + refused, []
        for reason, count in self._refused.most_common():
            where = f"{count:,} for '{reason}', first {self._places[reason][0]}: {self._details[reason]}"
            parts.append(f"{where}. To do: {CURES[reason]}")
        allowed = "" if not self.used else "; or on_error='skip' goes on regardless"
        raise DataError(f"{refused:,} of {whole:,} rows cannot be trained on: {'; '.join(parts)}{allowed}.")

    def findings(self) -> tuple[Finding, ...]:
        """One finding for each reason why rows were refused or are odd, reading first."""
        from sftloss.data import CURES, ENCODE_REASONS, READ_REASONS, READ_WARNINGS

        read: ReadReport = self._records.report
        found = []
        for reason, count in sorted(read.counts.items()):
            places = tuple(map(str, read.origins[reason]))
            told = (read.details[reason], CURES[reason])
            found.append(_finding(READ_REASONS[reason], count, read.rows, told, places))
        for reason, count in sorted(self._refused.items()):
            told, places = (self._details[reason], CURES[reason]), tuple(self._places[reason])
            found.append(_finding(ENCODE_REASONS[reason], count, read.rows, told, places))
        for name, count in sorted(read.warnings.items()):
            places = tuple(map(str, read.origins[name]))
            sentence = f"{count:,} of {read.rows:,} rows are odd and kept: {name.replace('-', ' ')}."
            why = "Nothing follows the last turn of such a row, so that turn is not learned from."
            found.append(Finding(READ_WARNINGS[name], "info", sentence, why, rows=places))
        return tuple(found)

    def facts(self, limit: int | None = None) -> tuple[tuple[str, str], ...]:
        """What was read, for the top of the report; `limit` is where reading was told to stop."""
        read: ReadReport = self._records.report
        formats = ", ".join(sorted(read.formats))
        first = "the first " if read.usable == limit else ""  # whether there is more was not asked
        return (("data", f"{read.source} ({formats})"), ("rows used", f"{self.used:,} of {first}{read.rows:,}"))


def _finding(code: str, count: int, rows: int, told: tuple[str, str], places: tuple[str, ...]) -> Finding:
    detail, cure = told
    return Finding(
        code,
        "error" if count > _MOSTLY * rows else "warning",
        f"{count:,} of {rows:,} rows are not in this report. The first: {detail}.",
        "Many frameworks drop such a row without a word, or train it on the wrong tokens.",
        cure,
        count / rows,
        unit="share of rows",
        rows=places,
    )
