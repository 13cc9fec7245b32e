"""A report short enough for a pull request: headlines, findings, the tables."""

from __future__ import annotations

import re

from sftloss.document import Document, Finding, Section, Table, by_severity
from sftloss.report.cells import show
from sftloss.report.format import SEVERITIES, finding_number, level_parts
from sftloss.report.language import translated
from sftloss.report.text import clean, clean_block, shorten

_ROWS = 12  # of a table; the JSON has all
_CELL = 160  # characters
_ACTIVE = re.compile(r"([\\`*_\[\]<>|~#$!&{}])")


def escape(text: str) -> str:
    """Text that Markdown shows and does not obey: no markup, link, image, mention, table border or HTML.

    A word joiner (invisible) follows ``@`` and the colon of ``://``: forges link those even when they are escaped.
    """
    text = _ACTIVE.sub(r"\\\1", clean(text)).replace("@", "@\u2060").replace("://", ":\u2060//")
    text = re.sub(r"(?i)\bwww\.", "www\u2060.", text)
    # a list item or an underline, at the start of a line only: "-3" and "50.0%" stay as they are
    return re.sub(r"^(\s*\d*)([-+=.)])(?=\s|$|\2)", r"\1\\\2", text)


def _table(table: Table, language: str) -> list[str]:
    shown = show(table, _ROWS, language)
    places = range(len(shown.columns))
    lines = [f"**{escape(table.title)}**", ""]
    lines.append("| " + " | ".join(escape(shown.label(i)) for i in places) + " |")
    lines.append("| " + " | ".join("---:" if shown.is_number(i) else ":---" for i in places) + " |")
    for row in shown.rows:
        lines.append("| " + " | ".join(escape(shorten(str(cell), _CELL)) for cell in row) + " |")
    hidden = len(table.rows) - len(shown.rows)
    note = [translated(f"{hidden:,} more rows are in the JSON.", language)] if hidden > 0 else []
    note += [escape(table.note)] if table.note else []
    return [*lines, "", *([" ".join(note), ""] if note else [])]


def _fence(text: str) -> list[str]:
    code = clean_block(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", code)), default=0))
    return [fence, code, fence]


def _findings(findings: tuple[Finding, ...], language: str) -> list[str]:
    if not findings:
        return [translated("Nothing was found that needs attention.", language), ""]
    heads = (translated(head, language) for head in ("Severity", "Id", "Finding", "Number"))
    lines = [f"| {' | '.join(heads)} |", "| :--- | :--- | :--- | ---: |"]
    for finding in findings:
        number = " ".join(translated(part, language) for part in finding_number(finding) if part)
        cells = (translated(SEVERITIES[finding.severity].word, language), finding.id, finding.sentence, number)
        lines.append("| " + " | ".join(escape(cell) for cell in cells) + " |")
    lines.append("")
    for finding in (f for f in findings if f.fix):
        lines += [f"**{escape(finding.id)}**: {escape(finding.why)}", "", *_fence(str(finding.fix)), ""]
    return lines


def _section(section: Section, language: str) -> list[str]:
    level = escape(level_parts(section.level)[0])
    level = f"（{level}）" if level and language == "zh" else level and f" ({level})"
    lines = [f"## {escape(section.title)}{level}", "", escape(section.lead), ""]
    for table in section.tables:
        lines += _table(table, language)
    for note in section.notes:
        lines += [escape(note), ""]
    return lines


def render_markdown(document: Document) -> str:
    """The document as GitHub Markdown: headlines, the answer, findings, then each section's lead, tables and notes.

    Every text is escaped; control and ANSI characters are removed. Tables are cut at twelve rows.
    """
    language = document.language
    lines = [f"# {escape(document.title)}", ""]
    lines += _section(document.answer, language) if document.answer else []
    lines += [*(f"- {escape(headline)}" for headline in document.headlines), ""]
    lines += [f"## {translated('Findings', language)}", "", *_findings(by_severity(document.findings), language)]
    for section in document.details:
        lines += _section(section, language)
    facts = document.facts + document.provenance
    if facts:
        lines += [f"## {translated('Provenance', language)}", ""]
        lines += [f"- {escape(label)}{translated(': ', language)}{escape(value)}" for label, value in facts]
    return "\n".join(lines).rstrip() + "\n"
