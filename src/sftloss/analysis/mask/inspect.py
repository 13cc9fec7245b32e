"""The mask audit: what a tokenizer makes of the data, and what of it is trained. No model is run.

It goes through the rows once. Counters, the first ten places of each fault and 48 bytes a row are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from sftloss.analysis.mask.audit import Audit, answer_text, audit
from sftloss.analysis.mask.findings import findings
from sftloss.analysis.mask.scaffold import Scaffold, scaffold_of
from sftloss.analysis.mask.sections import (
    languages_section,
    lengths_section,
    refused_section,
    totals_section,
    trained_section,
)
from sftloss.analysis.mask.strips import strip
from sftloss.analysis.mask.tally import Tally
from sftloss.analysis.shared.shares import number, percent
from sftloss.data import Example, Record, Records, RowError, encode, script_of
from sftloss.document import Document, Finding, Section, TokenStrip
from sftloss.errors import DataError

Progress = Callable[[int, "int | None"], None]
_UNTOLD = ("script:none", "script:Mixed", "script:Other")
_FAULT_STRIPS = 4


@dataclass(frozen=True)
class InspectOptions:
    """How to inspect.

    Attributes:
        max_length: Tokens kept of each example; None keeps all.
        template: Jinja text or name of a template, in place of the tokenizer's default.
        examples: Number of examples shown token by token, from the start; of each fault of the mask one more is shown.
        batch_size, grad_accum: Examples in a micro-batch and micro-batches in a step, to count steps.
        on_error: ``"raise"`` ends at the first unusable row; otherwise it is counted.
    """

    max_length: int | None = None
    template: str | None = None
    examples: int = 3
    batch_size: int | None = None
    grad_accum: int | None = None
    on_error: str = "skip"


@dataclass
class _Pass:
    """One pass over the rows."""

    tokenizer: Any
    scaffold: Scaffold
    options: InspectOptions
    tally: Tally = field(default_factory=Tally)
    shown: list[TokenStrip] = field(default_factory=list)
    faulty: list[TokenStrip] = field(default_factory=list)
    told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        words = {str(self.tokenizer.decode([i])) for i in self.scaffold.special} - {""}
        self._control = re.compile("|".join(map(re.escape, sorted(words)))) if words else None

    def take(self, record: Record) -> None:
        options = self.options
        try:
            example = encode(record, self.tokenizer, max_length=options.max_length, template=options.template)
        except RowError as error:
            if options.on_error == "raise":
                raise
            self.tally.refuse(error)
            return
        found = audit(example, record, self.scaffold, pad_id=self.tokenizer.pad_token_id)
        self.tally.add(example, found)
        if self._control and any(self._control.search(m.content) for m in record.messages or ()):
            self.tally.faults.add("DATA105", example.origin)
        asked, answered = answer_text(record, found, example, self.tokenizer)
        self._speak(record, asked, answered)
        self._show(example, found)

    def _speak(self, record: Record, asked: str, answered: str) -> None:
        spoken = record.language or script_of(answered)
        # a language that the data names says nothing about scripts
        script = script_of(asked) if spoken.startswith("script:") and spoken not in _UNTOLD else None
        self.tally.speak(record.origin, None if script in _UNTOLD else script, spoken)

    def _show(self, example: Example, found: Audit) -> None:
        faults = [fault for fault in found.faults if fault.startswith("MASK") and " " not in fault]
        new = [fault for fault in faults if fault not in self.told]
        is_first = len(self.shown) < self.options.examples
        if is_first or (new and self.options.examples and len(self.faulty) < _FAULT_STRIPS):
            place = replace(example.origin, path=PurePath(example.origin.path).name)
            title = " ".join([str(place), *faults])
            (self.shown if is_first else self.faulty).append(strip(example, found, self.tokenizer, title=title))
            self.told.update(new)


def inspect_records(
    records: Records, tokenizer: Any, options: InspectOptions | None = None, *, progress: Progress | None = None
) -> Document:
    """What is trained on in these rows: findings about mask and data, counts, lengths, examples token by token.

    Args:
        records: The rows, as `read_records` gives them; gone through once.
        tokenizer: A transformers tokenizer with the chat template that training will use.
        options: Length, template, and how much to show.
        progress: Called with the number of rows done, now and then.

    Returns:
        The document. Equal rows, tokenizer and options give equal documents.

    Raises:
        DataError: If no row can be read, or no row can become an example and nothing can be said of why; with
            ``on_error="raise"`` (of `records` too) at the first unusable row.
    """
    options = options or InspectOptions()
    this = _Pass(tokenizer, scaffold_of(tokenizer, options.template), options)
    rows = records if options.on_error == "raise" else _readable(records)
    for done, record in enumerate(rows, start=1):
        this.take(record)
        if progress is not None and done % 100 == 0:
            progress(done, None)
    return _document(this, records)


def _readable(records: Records) -> Iterator[Record]:
    """Rows until the end; that no row at all could be used is for the findings to say, if rows were there."""
    try:
        yield from records
    except DataError:
        if not records.report.rows:
            raise


def _document(this: _Pass, records: Records) -> Document:
    tally, read, options = this.tally, records.report, this.options
    pad, ends = this.tokenizer.pad_token_id, this.scaffold.ends
    facts = frozenset({"pad is end"} if pad is not None and pad in ends else ())
    found = findings(tally, read, this.scaffold, facts)
    sections: list[Section | None] = [
        totals_section(tally, read, batch_size=options.batch_size, grad_accum=options.grad_accum)
    ]
    if tally.examples:
        strips = (*this.shown, *this.faulty)
        sections = [trained_section(tally, strips), *sections, lengths_section(tally), languages_section(tally)]
    sections.append(refused_section(tally, read))
    return Document(
        f"What is trained in {PurePath(read.source).name}",
        _headlines(tally, read.rows, found),
        found,
        tuple(section for section in sections if section is not None),
        _facts(this, read.source),
    )


def _headlines(tally: Tally, rows: int, found: tuple[Finding, ...]) -> tuple[str, ...]:
    if not tally.examples:
        return (f"None of the {rows:,} rows can be trained on.",)
    share = percent(tally.trained / tally.tokens)
    roles = tally.by_role[:, 1]
    answers = percent(float(roles[1] / roles.sum()))
    ends = percent(tally.with_end / tally.examples)
    trained = tally.ledger.numbers("trained")
    wrong = sum(finding.severity != "info" for finding in found)
    asks = "finding asks" if wrong == 1 else "findings ask"
    told = f"{wrong} {asks} for a change." if wrong else "Nothing here asks for a change."
    return (
        f"{tally.examples:,} of {rows:,} rows can be trained on; {tally.trained:,} of {tally.tokens:,} tokens are "
        f"trained ({share}).",
        f"{answers} of the trained tokens are answers, {number(float(trained.mean()))} tokens an example; "
        f"{ends} of the examples train their end.",
        told,
    )


def _facts(this: _Pass, source: str) -> tuple[tuple[str, str], ...]:
    tokenizer, scaffold = this.tokenizer, this.scaffold
    tags = "with generation tags" if scaffold.has_tags else "without generation tags"
    ends = ", ".join(str(tokenizer.decode([end])) for end in sorted(scaffold.ends)) or "none"
    return (
        ("data", source),
        ("tokenizer", str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)),
        ("template", f"the tokenizer's, {tags}" if scaffold.has_template else "plain headings, it has none"),
        ("end tokens", ends),
        ("max length", "none" if this.options.max_length is None else f"{this.options.max_length:,}"),
    )
