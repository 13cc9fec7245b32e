"""The account of rows: how many were read, used, refused and truncated, why, and where first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from sftloss.data.examples import Example, Origin
from sftloss.data.reasons import ROW_REASONS, Reason, excerpt
from sftloss.document import Severity
from sftloss.errors import DataError, as_argument, as_flag, mention, spelled
from sftloss.rules import Evidence, Rule
from sftloss.words import percent

MOST_ORIGINS = 10
MOSTLY = 0.5
"""Share of unusable rows above which ``on_error="report"`` is an error."""

END_ROOM = 4
"""Tokens from the one that ends a turn to the last trained one: a template may put a line break or two after it."""

ON_ERROR = ("report", "skip", "raise", "count")
"""What an unusable row does. ``"report"`` counts it, and more than half unusable rows are an error; ``"skip"`` counts
it whatever their share, and no usable row at all is an error; ``"count"`` never is; ``"raise"`` stops at the first."""


@dataclass
class Places:
    """How often things of several kinds happened, with the first places and the first detail of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    origins: dict[str, list[Origin]] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, origin: Origin, detail: str = "") -> None:
        self.counts[kind] += 1
        origins = self.origins.setdefault(kind, [])
        if len(origins) < MOST_ORIGINS:
            origins.append(origin)
        if detail:
            self.details.setdefault(kind, detail)

    def rows(self, kind: str) -> tuple[str, ...]:
        """The first places as text."""
        return tuple(map(str, self.origins.get(kind, ())))


@dataclass(frozen=True)
class Account:
    """What became of the rows of a source in one pass.

    Attributes:
        source: The path or hub name as given.
        rows: Rows read, usable or not.
        used: Rows that became records; where there are examples, rows that became examples.
        counts: Number of rows by reason (keys of ROW_REASONS), refused ones and those that are kept.
        origins: The first ten origins of each reason.
        details: What is wrong with the first row of each reason.
        formats: Number of records by format.
        unseen_columns: Columns named by the user that no row had.
        truncated, lost_ends, cut_tokens: Examples that are used and were cut, those of them that do not train the end
            of their last answer, and the tokens cut off.
        cut_origins: The first ten of the examples that were cut, those that do not train their end first.
        limited: Whether the pass stopped at the limit, so that there may be more rows.
        complete: Whether the pass reached its end or its limit.
    """

    source: str
    rows: int = 0
    used: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    origins: Mapping[str, tuple[Origin, ...]] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, int] = field(default_factory=dict)
    unseen_columns: tuple[str, ...] = ()
    truncated: int = 0
    lost_ends: int = 0
    cut_tokens: int = 0
    cut_origins: tuple[Origin, ...] = ()
    limited: bool = False
    complete: bool = False

    @property
    def refused(self) -> Mapping[str, int]:
        """Number of refused rows by reason, the most frequent first."""
        refused = ((name, count) for name, count in self.counts.items() if ROW_REASONS[name].stage != "kept")
        return dict(sorted(refused, key=lambda item: (-item[1], item[0])))

    @property
    def unusable(self) -> int:
        """Number of refused rows."""
        return sum(self.refused.values())

    def summary(self) -> str:
        """One paragraph for a person: how many rows, which formats, what was refused, where first, what to do."""
        return spelled(self._summary(), as_argument)

    def _summary(self) -> str:
        """The paragraph with options as `mention` writes them."""
        formats = ", ".join(f"{name} {count}" for name, count in sorted(self.formats.items()))
        parts = [f"{self.source}: {self.used} of {self.rows} rows usable" + (f" ({formats})." if formats else ".")]
        for name, count in self.refused.items():
            first = self._first(name)
            reason, detail = ROW_REASONS[name], self.details[name]
            parts.append(f"{reason.code} {name}: {count} refused, first at {first}: {detail}; {reason.cure}.")
        for name, count in sorted(self.counts.items()):
            if name not in self.refused:
                parts.append(f"{ROW_REASONS[name].code} {name}: {count} kept, first at {self._first(name)}.")
        if self.unseen_columns and self.rows:
            parts.append(f"No row has the column {', '.join(excerpt(name) for name in self.unseen_columns)}.")
        return " ".join(parts)

    def _first(self, name: str) -> str:
        first = self.origins[name][0]
        # in a JSON array line and row differ, and both help
        return f"{first} (row {first.row})" if first.line is not None and first.line != first.row + 1 else str(first)

    def judge(self, on_error: str, share: float = MOSTLY) -> None:
        """Raise where the policy allows no more.

        Raises:
            DataError: If no row is usable, or more than `share` are not; the summary is in the message.
        """
        if on_error == "count" and self.rows:
            return
        if not self.used:
            raise DataError(f"No usable row. {self._summary()}")
        if on_error == "report" and self.unusable > share * self.rows:
            raise DataError(
                f"{self.unusable / self.rows:.0%} of the rows cannot be used, {share:.0%} are allowed",
                cure=f"{mention('on_error', 'skip')} reads on regardless. {self._summary()}",
            )

    def facts(self) -> tuple[tuple[str, str], ...]:
        """What was read, for the top of a report."""
        formats = f" ({', '.join(sorted(self.formats))})" if self.formats else ""
        first = "the first " if self.limited else ""
        return (("data", f"{self.source}{formats}"), ("rows used", f"{self.used:,} of {first}{self.rows:,}"))


class Counts:
    """The account of one pass while it is kept."""

    def __init__(self, source: str, columns: Iterable[str] = ()) -> None:
        self.rows = self.used = self.cut_tokens = 0
        self.limited = self.complete = False
        self.places, self.cuts = Places(), Places()
        self.formats: Counter[str] = Counter()
        self._source, self._unseen = source, dict.fromkeys(columns)

    def saw_columns(self, row: Mapping[str, object]) -> None:
        """Cross out the named columns that this row has, so that a misspelled one remains."""
        for name in [name for name in self._unseen if name in row]:
            del self._unseen[name]

    def saw_example(self, example: Example) -> None:
        """Count one usable example and what was cut off it."""
        self.used += 1
        if example.truncated:
            self.cut_tokens += example.truncated
            trained = example.weights != 0
            last = int(trained.nonzero()[-1]) + 1
            has_end = bool((trained & example.is_end)[max(0, last - END_ROOM) : last].any())
            self.cuts.add("end kept" if has_end else "end lost", example.origin)

    def account(self) -> Account:
        """A snapshot."""
        return Account(
            source=self._source,
            rows=self.rows,
            used=self.used,
            counts=dict(self.places.counts),
            origins={name: tuple(origins) for name, origins in self.places.origins.items()},
            details=dict(self.places.details),
            formats=dict(self.formats),
            unseen_columns=tuple(self._unseen),
            truncated=self.cuts.counts.total(),
            lost_ends=self.cuts.counts["end lost"],
            cut_tokens=self.cut_tokens,
            cut_origins=tuple(sum((self.cuts.origins.get(kind, []) for kind in ("end lost", "end kept")), [])),
            limited=self.limited,
            complete=self.complete,
        )


def _of(count: int, account: Account) -> str:
    return f"{count:,} of {account.rows:,} rows ({percent(count / account.rows)})"


def _reason(reason: Reason, account: Account) -> Evidence | None:
    """Rows of one reason."""
    count = account.counts.get(reason.name, 0)
    if not count:
        return None
    share, sentence = count / account.rows, f"{_of(count, account)} {reason.sentence}"
    severity: Severity = "error" if share > MOSTLY else "warning"
    if reason.stage == "kept":
        severity = "warning" if share > 0.01 else "info"
    else:
        sentence += f". The first: {account.details[reason.name]}"
    rows = tuple(map(str, account.origins[reason.name]))
    return Evidence(f"{sentence}.", share, None, "share", rows, severity)


def _truncated(account: Account) -> Evidence | None:
    gone, cut = account.counts.get("truncated-away", 0), account.truncated
    if not gone + cut:
        return None
    share = (gone + cut) / account.rows
    severity: Severity = "error" if gone > MOSTLY * account.rows else "warning" if gone or share > 0.01 else "info"
    sentence = (
        f"{_of(gone + cut, account)} are truncated: {gone:,} lose every trained token and are left out, "
        f"{account.lost_ends:,} lose the end of their last answer."
    )
    rows = (*account.origins.get("truncated-away", ()), *account.cut_origins)[:MOST_ORIGINS]
    return Evidence(sentence, share, None, "share", tuple(map(str, rows)), severity)


def _unseen(account: Account) -> Evidence | None:
    if not account.unseen_columns:
        return None
    return Evidence(f"No row has the column {', '.join(account.unseen_columns)} that --columns names.")


def _rule(reason: Reason) -> Rule[Account]:
    check = _truncated if reason.name == "truncated-away" else partial(_reason, reason)
    return Rule(
        reason.code, "warning", f"Rows that {reason.sentence}", reason.why, spelled(reason.cure, as_flag), check
    )


RULES: tuple[Rule[Account], ...] = (
    *map(_rule, ROW_REASONS.values()),
    Rule(
        "DATA108",
        "warning",
        "A named column that no row has",
        "A mistyped name is ignored.",
        "correct --columns",
        _unseen,
    ),
)
"""What an account reports, one rule per reason: the same in every command that reads rows."""
