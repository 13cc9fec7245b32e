"""The mask audit: what a tokenizer makes of the data, and which tokens of it are trained. No model is run.

One pass over the rows. It keeps counters, the first ten places of each fault and about 64 bytes a row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np

from sftloss.analysis.mask.audit import Audit, answer_text, audit
from sftloss.analysis.mask.rules import INSPECT_RULES, NO_LANGUAGE, Inspection
from sftloss.analysis.mask.sections import (
    languages_section,
    lengths_section,
    refused_section,
    strip,
    totals_section,
    trained_section,
    verdict_section,
)
from sftloss.analysis.mask.tally import MaskTally
from sftloss.data import Account, Example, Examples, Record, Records, account, script_of
from sftloss.data.rendering.scaffold import Scaffold
from sftloss.document import Document, Finding, TokenStrip, by_severity
from sftloss.models import shown_name
from sftloss.rules import findings_of
from sftloss.words import number, percent

_FAULT_STRIPS = 4
_PROGRESS_EVERY = 100


@dataclass(frozen=True)
class InspectOptions:
    """What to show beside the findings.

    Attributes:
        examples: Number of examples shown token by token, from the start; of each fault of the mask one more is shown.
        batch_size, grad_accum: Examples in a micro-batch and micro-batches in a step, to count steps.
    """

    examples: int = 3
    batch_size: int | None = None
    grad_accum: int | None = None


@dataclass
class Inspected:
    """Examples on their way, and what an inspection collects of them; `findings` are those of the latest loop.

    `inspect` and `analyze` both go through it, so that they cannot differ about the same rows.
    """

    examples: Examples
    tokenizer: Any
    shown_at_most: int = 0
    tally: MaskTally = field(default_factory=MaskTally)
    shown: list[TokenStrip] = field(default_factory=list)
    faulty: list[TokenStrip] = field(default_factory=list)
    shown_faults: set[str] = field(default_factory=set)

    @cached_property
    def scaffold(self) -> Scaffold:
        return self.examples.scaffold

    @cached_property
    def _control(self) -> re.Pattern[str] | None:
        words = {str(self.tokenizer.decode([i])) for i in self.scaffold.special} - {""}
        return re.compile("|".join(map(re.escape, sorted(words)))) if words else None

    def __iter__(self) -> Iterator[Example]:
        self.tally, self.shown, self.faulty, self.shown_faults = MaskTally(), [], [], set()
        for record, example in self.examples.pairs():
            self._add(record, example)
            yield example

    def findings(self) -> tuple[Finding, ...]:
        """What the rows and their masks show, in the order of severity."""
        rows, pad_id = self.examples.account, self.tokenizer.pad_token_id
        pads_with_end = pad_id is not None and pad_id in self.scaffold.ends
        findings = [*findings_of(account.ROW_RULES, rows)]
        whole = self.tally.ledger.numbers("whole")
        if len(whole):
            most, longest = int(np.quantile(whole, 0.99, method="inverted_cdf")), int(whole.max())
            kept = f"99 % of these examples whole, {longest} all" if most < longest else "all of these examples whole"
            longer = f"--max-length {most} keeps {kept}; or leave out those that are too long: --truncate drop"
            findings = [replace(one, fix=longer) if one.id == "MASK007" else one for one in findings]
            findings += findings_of(INSPECT_RULES, Inspection(self.tally, rows, self.scaffold, pads_with_end))
        return by_severity(findings)

    def _add(self, record: Record, example: Example) -> None:
        audited = audit(example, record, self.scaffold, pad_id=self.tokenizer.pad_token_id)
        self.tally.add(record, example, audited)
        if self._control and any(self._control.search(m.content) for m in record.messages or ()):
            self.tally.faults.add("DATA105", example.origin)
        prompt, answer = answer_text(record, audited, example, self.tokenizer)
        language = record.language or script_of(answer)
        # a language that the data names says nothing about scripts
        script = script_of(prompt) if language.startswith("script:") and language not in NO_LANGUAGE else None
        self.tally.add_languages(record.origin, None if script in NO_LANGUAGE else script, language)
        self._show(example, audited)

    def _show(self, example: Example, audited: Audit) -> None:
        faults = [fault for fault in audited.faults if fault.startswith("MASK") and " " not in fault]
        faults += ["MASK007"] if example.truncated else []
        new = [fault for fault in faults if fault not in self.shown_faults]
        is_first = len(self.shown) < self.shown_at_most
        if is_first or (new and self.shown_at_most and len(self.faulty) < _FAULT_STRIPS):
            place = replace(example.origin, path=PurePath(example.origin.path).name)
            title = " ".join([str(place), *faults])
            (self.shown if is_first else self.faulty).append(strip(example, self.tokenizer, title=title))
            self.shown_faults.update(new)


def inspect_records(
    records: Records,
    tokenizer: Any,
    options: InspectOptions | None = None,
    *,
    progress: Callable[[int, int | None], None] | None = None,
    **how: Any,
) -> Document:
    """What is trained on in these rows: findings about mask and data, counts, lengths, examples token by token.

    Args:
        records: The rows, as `read_records` gives them; with ``on_error="count"`` unusable rows are findings, however
            many they are.
        tokenizer: A transformers tokenizer with the chat template that training will use.
        options: How much to show.
        progress: Called with the number of examples done, now and then.
        how: The fields of :class:`sftloss.data.Encoding`: ``max_length``, ``template``, ...

    Returns:
        The document. Equal rows, tokenizer and options give equal documents.

    Raises:
        DataError: If there is no row at all, or as the policy of the records demands.
    """
    options = options or InspectOptions()
    collected = Inspected(Examples(records, tokenizer, **how), tokenizer, options.examples)
    for done, _ in enumerate(collected, start=1):
        if progress is not None and done % _PROGRESS_EVERY == 0:
            progress(done, None)
    return _document(collected, collected.examples.account, options, how)


def _document(collected: Inspected, rows: Account, options: InspectOptions, how: Mapping[str, Any]) -> Document:
    tally = collected.tally
    findings = collected.findings()
    sections = [totals_section(tally, rows, batch_size=options.batch_size, grad_accum=options.grad_accum)]
    if tally.examples:
        strips = (*collected.shown, *collected.faulty)
        answer = verdict_section(tally, rows, findings)
        sections = [answer, trained_section(tally, strips), *sections, lengths_section(tally)]
    optional = (languages_section(tally), refused_section(rows))
    return Document(
        f"What is trained in {PurePath(rows.source).name}",
        (_headline(tally, rows.rows),),
        findings,
        (*sections, *(section for section in optional if section is not None)),
        _facts(collected, rows.source, how),
    )


def _headline(tally: MaskTally, rows: int) -> str:
    if not tally.examples:
        return f"None of the {rows:,} rows can be trained on."
    return (
        f"{tally.examples:,} of {rows:,} rows can be trained on; {tally.trained:,} of {tally.tokens:,} tokens are "
        f"trained ({percent(tally.trained / tally.tokens)}), {number(tally.trained / tally.examples)} an example."
    )


def _facts(collected: Inspected, source: str, how: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    tokenizer, scaffold = collected.tokenizer, collected.scaffold
    tags = "with generation tags" if scaffold.has_tags else "without generation tags"
    template, max_length = how.get("template"), how.get("max_length")
    name = "the tokenizer's" if template is None else template if "{" not in template else "a text"
    ends = ", ".join(str(tokenizer.decode([end])) for end in sorted(scaffold.ends)) or "none"
    return (
        ("data", source),
        ("tokenizer", shown_name(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)),
        ("template", f"{name}, {tags}" if scaffold.has_template else "plain headings, it has none"),
        ("end tokens", ends),
        ("max length", "none" if max_length is None else f"{max_length:,}"),
    )
