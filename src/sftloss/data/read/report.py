"""What reading found: a stable code for every way a row can be unusable, counted, with the first places to look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from sftloss.data.examples import Origin

READ_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "not-json": "DATA001",
        "not-utf8": "DATA002",
        "line-too-long": "DATA003",
        "truncated-row": "DATA004",
        "not-an-object": "DATA005",
        "duplicate-key": "DATA006",
        "non-finite-number": "DATA007",
        "lone-surrogate": "DATA008",
        "unknown-shape": "DATA009",
        "empty-messages": "DATA010",
        "non-string-content": "DATA011",
        "unsupported-content": "DATA012",
        "unknown-role": "DATA013",
        "no-response": "DATA014",
        "empty-answer": "DATA015",
        "bad-weight": "DATA016",
        "bad-tool-call": "DATA017",
        "bad-tokens": "DATA018",
    }
)
"""Why a row is refused, and the code under which reports name it. Codes never change their meaning."""

READ_WARNINGS: Mapping[str, str] = MappingProxyType({"last-turn-not-assistant": "DATA101"})
"""What is odd about a row that is kept."""

_KEPT_ORIGINS = 10
_SHOWN_LENGTH = 80


class BadRow(Exception):
    """One row cannot be used. `reason` is a key of READ_REASONS, `detail` one clause: what is wrong and what to do."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{READ_REASONS[self.reason]} {self.reason}: {self.detail}"


def excerpt(value: object, length: int = _SHOWN_LENGTH) -> str:
    """The value in quotes, at most `length` characters, no character of it able to steer a terminal."""
    text = value if isinstance(value, str) else repr(value)
    shown = text[:length]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    if len(text) > length or len(shown) > length:
        shown = shown[: length - 3] + "..."
    return f"'{shown}'" if isinstance(value, str) else shown


@dataclass(frozen=True)
class ReadReport:
    """What one pass over the data found so far; `complete` once the pass has ended.

    Attributes:
        source: the path or hub id as given.
        rows: rows seen, usable or not.
        usable: rows that became records.
        counts: number of refused rows by reason (keys of READ_REASONS).
        origins: the first ten origins of each reason or warning.
        details: the sentence of the first row of each reason.
        warnings: number of kept rows by warning (keys of READ_WARNINGS).
        formats: number of usable rows by detected format.
        unseen_columns: columns the user named that no row had.
        complete: whether the pass reached its end or its limit.
    """

    source: str
    rows: int = 0
    usable: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    origins: Mapping[str, tuple[Origin, ...]] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    warnings: Mapping[str, int] = field(default_factory=dict)
    formats: Mapping[str, int] = field(default_factory=dict)
    unseen_columns: tuple[str, ...] = ()
    complete: bool = False

    @property
    def bad(self) -> int:
        """Number of rows that could not be used."""
        return self.rows - self.usable

    def summary(self) -> str:
        """One paragraph for a person: how many rows, which formats, what was refused, where to look first."""
        formats = ", ".join(f"{name} {count}" for name, count in sorted(self.formats.items()))
        parts = [f"{self.source}: {self.usable} of {self.rows} rows usable" + (f" ({formats})." if formats else ".")]
        for reason, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            code = READ_REASONS[reason]
            where = self._places(reason)
            parts.append(f"{code} {reason}: {count} refused, first at {where}: {self.details[reason]}.")
        for warning, count in sorted(self.warnings.items()):
            parts.append(f"{READ_WARNINGS[warning]} {warning}: {count} kept, first at {self._places(warning)}.")
        if self.unseen_columns and self.rows:
            parts.append(f"No row has the column {', '.join(excerpt(name) for name in self.unseen_columns)}.")
        return " ".join(parts)

    def _places(self, reason: str) -> str:
        first = self.origins[reason][0]
        # in a JSON array line and row differ, and both help
        return f"{first} (row {first.row})" if first.line is not None and first.line != first.row + 1 else str(first)


class Tally:
    """The counters of one pass while it runs."""

    def __init__(self, source: str, named_columns: tuple[str, ...] = ()) -> None:
        self.rows = 0
        self.usable = 0
        self.complete = False
        self._source = source
        self._unseen = dict.fromkeys(named_columns)
        self._counts: Counter[str] = Counter()
        self._warnings: Counter[str] = Counter()
        self._formats: Counter[str] = Counter()
        self._origins: dict[str, list[Origin]] = {}
        self._details: dict[str, str] = {}

    def good(self, row_format: str) -> None:
        """Count one usable row."""
        self.usable += 1
        self._formats[row_format] += 1

    def bad(self, origin: Origin, fault: BadRow) -> None:
        """Count one refused row."""
        self._counts[fault.reason] += 1
        self._details.setdefault(fault.reason, fault.detail)
        self._note(fault.reason, origin)

    def warn(self, origin: Origin, warning: str) -> None:
        """Count one odd row that is kept."""
        self._warnings[warning] += 1
        self._note(warning, origin)

    def saw_columns(self, row: object) -> None:
        """Forget the named columns this row has, so that a misspelled one remains."""
        if self._unseen and isinstance(row, Mapping):
            for name in [name for name in self._unseen if name in row]:
                del self._unseen[name]

    def report(self) -> ReadReport:
        """A snapshot."""
        return ReadReport(
            source=self._source,
            rows=self.rows,
            usable=self.usable,
            counts=dict(self._counts),
            origins={name: tuple(found) for name, found in self._origins.items()},
            details=dict(self._details),
            warnings=dict(self._warnings),
            formats=dict(self._formats),
            unseen_columns=tuple(self._unseen),
            complete=self.complete,
        )

    def _note(self, reason: str, origin: Origin) -> None:
        found = self._origins.setdefault(reason, [])
        if len(found) < _KEPT_ORIGINS:
            found.append(origin)
