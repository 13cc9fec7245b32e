"""The account of rows: how many were read, used, refused and truncated, why, and where first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from sftloss.data.examples import Example, Origin
from sftloss.data.reasons import ROW_REASONS, Reason, excerpt, plain_detail
from sftloss.document import Severity
from sftloss.errors import DataError, as_flag, mention
from sftloss.rules import Evidence, Rule
from sftloss.words import agreeing, part_of, percent

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

    def rows(self, *kinds: str) -> tuple[str, ...]:
        """The first places of these kinds as text."""
        origins = [origin for kind in kinds for origin in self.origins.get(kind, ())]
        return tuple(map(str, origins[:MOST_ORIGINS]))


@dataclass
class Account:
    """What became of the rows of a source in one pass; kept while the pass goes on.

    Attributes:
        source: The path or hub name as given.
        rows: Rows read, usable or not.
        used: Rows that became records; where examples are made of them, rows that became examples.
        reasons: Rows by reason (keys of ROW_REASONS): refused ones, and unusual ones that are kept.
        formats: Number of records by format.
        unseen_columns: Columns named by the user that no row had so far.
        cuts: Examples that were cut, by whether they still train the end of their last answer: ``"end kept"`` and
            ``"end lost"``.
        cut_tokens: Tokens cut off.
        notes: Examples by the kind of note that `encode` has about them; `noted` counts the notes as they are.
        limited: Whether the pass stopped at the limit, so that there may be more rows.
    """

    source: str
    rows: int = 0
    used: int = 0
    reasons: Places = field(default_factory=Places)
    formats: Counter[str] = field(default_factory=Counter)
    unseen_columns: tuple[str, ...] = ()
    cuts: Places = field(default_factory=Places)
    cut_tokens: int = 0
    notes: Places = field(default_factory=Places)
    noted: Counter[str] = field(default_factory=Counter)
    limited: bool = False

    @property
    def refused(self) -> dict[str, int]:
        """Number of refused rows by reason, the most frequent first."""
        refused = ((name, n) for name, n in self.reasons.counts.items() if ROW_REASONS[name].is_refusal)
        return dict(sorted(refused, key=lambda item: (-item[1], item[0])))

    @property
    def unusable(self) -> int:
        """Number of refused rows."""
        return sum(self.refused.values())

    @property
    def truncated(self) -> int:
        """Number of examples that were cut."""
        return self.cuts.counts.total()

    def saw_columns(self, row: Mapping[str, object]) -> None:
        """Cross out the named columns that this row has, so that a misspelled one remains."""
        self.unseen_columns = tuple(
            name for name in self.unseen_columns if name not in row and re.split(r"[.\[]", name)[0] not in row
        )

    def saw_example(self, example: Example) -> None:
        """Count what was cut off an example, and the notes about it."""
        self.noted.update(example.notes)
        for kind in dict.fromkeys(note.partition(":")[0] for note in example.notes):
            self.notes.add(kind, example.origin)
        if bool((example.weights < 0).any()):
            self.notes.add("marked", example.origin)
        if example.truncated:
            self.cut_tokens += example.truncated
            trained = example.weights != 0
            last = int(trained.nonzero()[-1]) + 1
            has_end = bool((trained & example.is_end)[max(0, last - END_ROOM) : last].any())
            self.cuts.add("end kept" if has_end else "end lost", example.origin)

    def summary(self) -> str:
        """One paragraph for a person: how many rows, which formats, what was refused, where to look first."""
        return plain_detail(self._summary()) + "."

    def _summary(self) -> str:
        """The summary with options as mentions, for an error."""
        formats = ", ".join(f"{name} {count}" for name, count in sorted(self.formats.items()))
        parts = [f"{self.source}: {self.used} of {self.rows} rows usable" + (f" ({formats})." if formats else ".")]
        for name, count in self.refused.items():
            first = self._first(name)
            detail = self.reasons.details[name]
            parts.append(f"{ROW_REASONS[name].code} {name}: {count} refused, first at {first}: {detail}.")
        for name, count in sorted(self.reasons.counts.items()):
            if name not in self.refused:
                became = "left out" if ROW_REASONS[name].stage == "chosen" else "kept"
                parts.append(f"{ROW_REASONS[name].code} {name}: {count} {became}, first at {self._first(name)}.")
        if self.unseen_columns and self.rows:
            parts.append(f"No row has the column {', '.join(excerpt(name) for name in self.unseen_columns)}.")
        return " ".join(parts)

    def _first(self, name: str) -> str:
        first = self.reasons.origins[name][0]
        # in a JSON array line and row differ, and both help
        return f"{first} (row {first.row})" if first.line is not None and first.line != first.row + 1 else str(first)

    def judge(self, on_error: str) -> None:
        """Raise where the policy allows no more.

        Raises:
            DataError: If no row is usable, or more than half are not; the summary is in the message.
        """
        if on_error == "count" and self.rows:
            return
        if not self.used:
            raise DataError(f"No usable row. {self._summary()}")
        if on_error == "report" and self.unusable > MOSTLY * self.rows:
            raise DataError(
                f"{percent(self.unusable / self.rows)} of the rows cannot be used, {percent(MOSTLY)} are allowed; "
                f"{mention('on_error', 'skip')} reads on regardless. {self._summary()}"
            )

    def facts(self) -> tuple[tuple[str, str], ...]:
        """What was read, for the top of a report."""
        formats = f" ({', '.join(sorted(self.formats))})" if self.formats else ""
        first = "the first " if self.limited else ""
        return (("data", f"{self.source}{formats}"), ("rows used", f"{self.used:,} of {first}{self.rows:,}"))


def _reason(reason: Reason, account: Account) -> Evidence | None:
    """Rows of one reason."""
    count = account.reasons.counts[reason.name]
    if not count:
        return None
    share, sentence = count / account.rows, part_of(count, account.rows, "rows", reason.sentence)
    severity: Severity | None = "error" if share > MOSTLY else "warning"
    if reason.stage == "kept":
        severity = "warning" if share > 0.01 else "info"
    else:
        sentence += f". The first: {plain_detail(account.reasons.details[reason.name], as_flag)}"
        severity = "error" if reason.name == "content-lost" else None if reason.stage == "chosen" else severity
    return Evidence(f"{sentence}.", share, None, "share", account.reasons.rows(reason.name), severity)


def _truncated(reason: Reason, account: Account) -> Evidence | None:
    gone, cut = account.reasons.counts[reason.name], account.truncated
    if not gone + cut:
        return None
    share, lost = (gone + cut) / account.rows, account.cuts.counts["end lost"]
    severity: Severity = "error" if gone > MOSTLY * account.rows else "warning" if gone or share > 0.01 else "info"
    parts = []
    if gone:
        parts.append(f"{gone:,} {agreeing(gone, 'lose')} every trained token and {agreeing(gone, 'are')} left out")
    if lost:
        parts.append(f"{lost:,} {agreeing(lost, 'lose')} the end of their last answer")
    whole = part_of(gone + cut, account.rows, "rows", "are truncated")
    sentence = f"{whole}: {', '.join(parts)}." if parts else f"{whole}."
    rows = (*account.reasons.rows(reason.name), *account.cuts.rows("end lost", "end kept"))[:MOST_ORIGINS]
    return Evidence(sentence, share, None, "share", rows, severity)


def _noted(kinds: tuple[str, ...], sentence: str, account: Account) -> Evidence | None:
    """Rows with a note of these kinds, and the notes' details, the most frequent first."""
    count = max(account.notes.counts[kind] for kind in kinds)
    if not count:
        return None
    notes = [note.partition(": ") for note, _ in account.noted.most_common() if note.partition(":")[0] in kinds]
    details = "; ".join(_DETAILS[kind].format(detail) for kind, _, detail in notes[:4] if kind in _DETAILS)
    text = f"{part_of(count, account.rows, 'rows', sentence)}{f': {details}' if details else ''}."
    return Evidence(text, count / account.rows, None, "share", account.notes.rows(*kinds))


def _unseen(account: Account) -> Evidence | None:
    if not account.unseen_columns:
        return None
    return Evidence(f"No row has the column {', '.join(account.unseen_columns)} that --columns names.")


def _thoughtless(account: Account) -> Evidence | None:
    """No answer has the reasoning whose weight was given."""
    if not account.used or account.notes.counts["no_thoughts"] < account.used:
        return None
    return Evidence(
        f"No answer of the {account.used:,} rows has reasoning, so its weight (--think-weight, --preset think=W) "
        "changes nothing."
    )


def _rule(reason: Reason) -> Rule[Account]:
    check = partial(_truncated if reason.name == "truncated-away" else _reason, reason)
    severity: Severity = "info" if reason.stage == "chosen" else "warning"
    return Rule(reason.code, severity, f"Rows that {reason.sentence}", reason.why, reason.cure, check)


_DETAILS = {
    "longer": "{} tokens",
    "lost": "the {}",
    "opener_differs": "the generation prompt ends with {}, and the answers do not begin with it",
    "join_differs": "answers end with {}, in the middle of a conversation and at its end",
    "moved": "a message is not in its place",
    "adapted": "{}",
}

NOTE_RULES: tuple[Rule[Account], ...] = (
    *(_rule(reason) for reason in ROW_REASONS.values() if not reason.is_refusal),
    Rule(
        "MASK009",
        "warning",
        "Two beginning-of-sequence tokens",
        "Template and tokenizer both add one. A trainer that keeps both trains on a start that generation never has.",
        "tokenizer(text, add_special_tokens=False) on what apply_chat_template gave",
        partial(_noted, ("double_bos",), "begin with two beginning-of-sequence tokens; one is removed here"),
    ),
    Rule(
        "DATA107",
        "warning",
        "Tools that the chat template does not render",
        "The model is trained to call tools that were never in its prompt.",
        "use a template that renders tools: --template",
        partial(_noted, ("tools_not_rendered",), "name tools that the chat template does not show"),
    ),
    Rule(
        "DATA109",
        "warning",
        "Words that the chat template does not show",
        "The answer is trained without a part of its prompt.",
        "another chat template: --template; or leave the words out of the data",
        partial(_noted, ("lost",), "lose words of their prompts in the chat template"),
    ),
    Rule(
        "DATA110",
        "info",
        "Tool calls written as plain JSON",
        "The chat template has no form for calls, so an agent that runs this model has to look for JSON in its text.",
        "",
        partial(_noted, ("calls_as_text",), "have their tool calls written as JSON into the text of the answer"),
    ),
    Rule(
        "DATA114",
        "info",
        "Conversations that the chat template takes only in another shape",
        "An agent that runs this model has to write its conversations in the same way.",
        "write the data so; or use a template that has a form for it: --template",
        partial(_noted, ("adapted",), "are rewritten, because the chat template refuses their form"),
    ),
    Rule(
        "DATA112",
        "warning",
        "Rows longer than the context of the model",
        "The model was never trained at these positions, or has none: it learns nothing there, or the run stops.",
        "set --max-length to the context of the model: longer rows are then cut, or left out with --truncate drop; or "
        "split the rows",
        partial(_noted, ("longer",), "are longer than the context of the model"),
    ),
    Rule(
        "DATA115",
        "warning",
        "A weight for reasoning where no row has any",
        "The run is the same as without it. Reasoning is read from a field of the message (reasoning_content, "
        "reasoning, thinking) and from <think> ... </think> in front of the answer.",
        "write the reasoning in one of these forms, or leave the weight out",
        _thoughtless,
    ),
    Rule(
        "DATA116",
        "warning",
        "Text marked as wrong",
        "The command train refuses these rows under its default loss, and under every other that does not read the "
        "marks.",
        "lower its probability: --loss unlikelihood; or give it a negative gradient under another loss: "
        "--normalizer tokens; or drop these rows",
        partial(_noted, ("marked",), "have text marked as wrong (is_negative), which the loss unlikelihood reads"),
    ),
    Rule(
        "MASK012",
        "warning",
        "Rows of token ids in which no turn of the chat template is found",
        "It cannot be checked which speaker is trained: the labels may train the user, or leave an answer out.",
        "name the model whose template the rows were made with: --template; or give the rows a column of roles",
        partial(_noted, ("roles_unknown",), "hold no opener that the chat template writes, so their roles are unknown"),
    ),
    Rule(
        "MASK011",
        "info",
        "Answers that are written differently in training than in generation",
        "In generation an answer follows other text than in training.",
        "a template made for training, where the family has one: --template",
        partial(_noted, ("opener_differs", "join_differs", "moved"), "are rendered differently than in generation"),
    ),
)
"""What an account reports about rows that are used."""

ROW_RULES: tuple[Rule[Account], ...] = (
    *(_rule(reason) for reason in ROW_REASONS.values() if reason.is_refusal),
    *NOTE_RULES,
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
