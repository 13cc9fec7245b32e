"""How numbers are written in a document: faults of its texts, as sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sftloss.document import Document, Finding
from sftloss.report.cells import chart_table, show
from sftloss.report.format import finding_number

NOUNS = "rows examples tokens steps answers prompts arms seeds tasks losses findings words normalizations ends labels"
DUST = re.compile(r"\d(?:\.\d+)?e-(?:0?[7-9]|\d\d)|\d\.\d{7,}")
LONG = re.compile(r"(?<![\w.,:/=-])\d{4,}(?![\w:])")
ONE = re.compile(rf"(?<![\d.,])1 (?:{NOUNS.replace(' ', '|')})\b")
PERCENT = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?) %")


def faults(document: Document) -> Iterator[str]:
    """Float dust, numbers without thousands separators, one of many, and a percentage in two formats in a finding."""
    for text in texts(document):
        for pattern in (DUST, LONG, ONE):
            if match := pattern.search(text):
                yield f"{match[0]!r} in: {text}"
    for finding in document.findings:
        yield from _two_formats(finding)


def texts(document: Document) -> Iterator[str]:
    """Everything that a reader sees, but for commands, names of files and examples token by token."""
    yield from document.headlines
    yield from (value for label, value in document.facts if label not in ("data", "model", "tokenizer"))
    for finding in document.findings:
        yield from (finding.sentence, finding.why, *finding_number(finding))
    for section in document.sections:
        yield from (section.lead, *section.notes, *(chart.description for chart in section.charts))
        for table in (*section.tables, *map(chart_table, section.charts)):
            yield table.note
            for row, raw in zip(show(table, len(table.rows)).rows, table.rows, strict=True):
                yield from (str(cell) for cell in row if str(cell) not in map(str, raw))
                yield from (cell for cell in raw if isinstance(cell, str) and ":" not in cell and cell[:2] != "--")


def _two_formats(finding: Finding) -> Iterator[str]:
    written = PERCENT.findall(" ".join((finding.sentence, finding_number(finding)[0])))
    for one in written:
        for other in written:
            decimals = len(one.partition(".")[2])
            if len(other.partition(".")[2]) > decimals and f"{float(other):.{decimals}f}" == one:
                yield f"{one} % and {other} % in: {finding.sentence}"
