"""A document on a terminal: findings, headlines, then a compact table or two per section."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import replace

from sftloss.document import Document, Finding, Section, Table, TokenStrip, by_severity
from sftloss.report.cells import ShownTable, chart_table, show
from sftloss.report.format import finding_number
from sftloss.report.order import SEVERITIES, bucket, count_line
from sftloss.report.text import clean, clean_block, columns, shorten, visible, wrap

if typing.TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_ROWS = 10
_TOKENS = 160
# of a long analysis a terminal shows answers and a few compact tables; the page and the JSON have the rest
_SECTIONS = ("tokens", "tilt", "positions", "influential", "method")
_TABLES = ("length-numbers", "gradient-factor")
_GAP = 3  # columns between two columns of a table
# darker is more; a terminal may have no colours, so none and some also differ by brackets
_BACKGROUNDS = ("", "on grey23", "on dark_blue", "on blue3", "on dodger_blue2", "black on sky_blue1")


def _say(console: Console, text: str, style: str = "") -> Text:
    """Text as data: rich reads no markup in it."""
    from rich.text import Text

    return encodable(Text(clean_block(text), style=style), console)


def encodable(line: Text, console: Console) -> Text:
    """What the terminal's encoding lacks becomes a question mark; one for one, so that styles stay in place."""
    encoding = console.encoding or "utf-8"
    line.plain = "".join(c.encode(encoding, "replace").decode(encoding) for c in line.plain)
    return line


def _is_unicode(console: Console) -> bool:
    return (console.encoding or "").lower().startswith("utf")


def render_terminal(document: Document, console: Console) -> None:
    """Print `document` to a rich console. Colour, width and encoding are the console's (it honours ``NO_COLOR``)."""
    for headline in document.headlines:
        console.print(_say(console, clean(headline), "bold"))
    console.print(_say(console, f"\n{clean(document.title)}", "bold underline"))
    findings = by_severity(document.findings)
    console.print(_say(console, f"Findings: {count_line(findings)}", "bold"))
    for finding in findings:
        _finding(console, finding)
    sections, rest = _summary(document)
    for section in sections:
        _section(console, section)
    if rest:
        console.print()
        line = f"Also in the HTML and JSON reports: {', '.join(clean(title) for title in rest)}."
        console.print(_say(console, line, "dim"))
    if document.facts:
        console.print()
        console.print(_say(console, "; ".join(f"{clean(k)} {clean(v)}" for k, v in document.facts), "dim"))


def _finding(console: Console, finding: Finding) -> None:
    severity = SEVERITIES[finding.severity]
    number, interval = finding_number(finding)
    line = _say(console, severity.shape if _is_unicode(console) else severity.ascii, severity.style)
    line.append(" ").append_text(_say(console, f"{severity.word} {clean(finding.id)}", severity.style))
    line.append("  ").append_text(_say(console, clean(finding.sentence)))
    console.print()
    console.print(line)
    numbers = ", ".join(part for part in (number, interval) if part)
    for text, style in ((numbers, "bold"), (clean(finding.why), "dim"), (str(finding.fix), "cyan")):
        if text:
            _indented(console, text, style)
    if finding.rows:
        rows = ", ".join(clean(row) for row in finding.rows[:3])
        more = f" and {len(finding.rows) - 3} more" if len(finding.rows) > 3 else ""
        _indented(console, f"rows: {rows}{more}", "dim")


def _indented(console: Console, text: str, style: str) -> None:
    # wrapped by hand: rich's Padding fills every line to the full width with blanks
    for line in _say(console, text, style).wrap(console, max(20, console.width - 2)):
        console.print("  ", line, sep="")


def _section(console: Console, section: Section) -> None:
    console.print()
    level = f"  [{clean(section.level).partition(':')[0]}]" if section.level else ""
    console.print(_say(console, clean(section.title) + level, "bold underline"))
    console.print(_say(console, clean(section.lead)))
    # a chart stands in only where a section has no table: a terminal shows its numbers, not its picture
    for table in section.tables or tuple(chart_table(chart) for chart in section.charts):
        if table.id == "advice":
            _advice(console, table)
        else:
            _table(console, table)
    for strip in section.strips[:2]:
        _strip(console, strip)


def _advice(console: Console, table: Table) -> None:
    for sentence, fix in _goals(table):
        console.print()
        console.print(_say(console, clean(sentence)))
        if fix:
            _indented(console, clean(fix), "cyan")


def _width(shown: ShownTable, index: int, *, has_intervals: bool) -> int:
    """Columns that column `index` needs: its cells on one line, or its label's longest word."""
    cells = [columns(str(row[index]) if has_intervals else row[index].text) for row in shown.rows]
    words = [columns(word) for word in shown.label(index).split()]
    return max([*cells, *words, 1])


def _first(shown: ShownTable, width: int) -> int:
    """Columns that the first one needs: it names the row and may wrap between words, but no word is broken."""
    texts = [shown.label(0), *(row[0].text for row in shown.rows)]
    longest = max((columns(word) for text in texts for word in text.split()), default=1)
    wish = _width(shown, 0, has_intervals=False)
    return min(max(min(wish, width // 3), longest), width // 2)


def _fitting(shown: ShownTable, width: int) -> tuple[list[int], bool]:
    """Widths of the columns that fit, and whether with intervals: those go first, then columns from the right."""
    for has_intervals in (True, False):
        needed = [_width(shown, i, has_intervals=has_intervals) for i in range(len(shown.columns))]
        wish, needed[0] = needed[0], _first(shown, width)
        if sum(needed) + _GAP * len(needed) <= width:
            break
    while len(needed) > 1 and sum(needed) + _GAP * len(needed) > width:
        needed.pop()
    spare = max(0, width - sum(needed) - _GAP * len(needed))
    for_first = min(spare, max(0, wish - needed[0]))
    needed[0] += for_first
    labels = [shown.label(i) for i in range(len(needed))]
    for _ in range(spare - for_first):  # the rest goes to whichever label stands on most lines
        lines = [len(wrap(label, wide, lines=9)) for label, wide in zip(labels, needed, strict=True)]
        if max(lines) > 1:
            needed[lines.index(max(lines))] += 1
    return needed, has_intervals


def _table(console: Console, table: Table) -> None:
    from rich import box
    from rich.table import Table as Grid

    shown = show(table, _ROWS)
    if not shown.columns:
        return
    widths, has_intervals = _fitting(shown, console.width)
    count = len(widths)
    console.print(_say(console, f"\n{clean(table.title)}", "bold"))
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, wide in enumerate(widths):
        label = _say(console, shown.label(i))
        # left to itself rich takes from the widest column until words break
        grid.add_column(label, justify="right" if shown.is_number(i) else "left", overflow="fold", width=wide)
    for row in shown.rows:
        texts = (str(cell) if has_intervals else cell.text for cell in row[:count])
        grid.add_row(*(_say(console, shorten(text, 200)) for text in texts))
    console.print(grid)
    hidden = [f"{len(table.rows) - _ROWS:,} more rows"] if len(table.rows) > _ROWS else []
    hidden += [f"{len(shown.columns) - count} more columns"] if count < len(shown.columns) else []
    if hidden:
        console.print(_say(console, f"{' and '.join(hidden)} in the HTML and JSON reports.", "dim"))
    if table.note:
        console.print(_say(console, clean(table.note), "dim"))


def _strip(console: Console, strip: TokenStrip) -> None:
    if not strip.measures or not strip.values:
        return
    shown = _say(console, f"{clean(strip.title)} (shade: {clean(strip.measures[0])}): ", "dim")
    is_plain, is_open = console.color_system is None, False
    for token, value in list(zip(strip.tokens, strip.values[0], strict=False))[:_TOKENS]:
        level = bucket(value)
        if is_plain and bool(level) is not is_open:
            shown.append("[" if level else "]")
            is_open = bool(level)
        shown.append_text(_say(console, visible(token), _BACKGROUNDS[level] if level else "dim"))
    shown.append("]" if is_open else "")
    console.print(shown.append("…" if len(strip.tokens) > _TOKENS else ""))


def _summary(document: Document) -> tuple[tuple[Section, ...], tuple[str, ...]]:
    """The sections to show, without their long tables, and the titles of those left out; short documents are whole."""
    if not any(section.id == "comparison" for section in document.sections):
        return document.sections, ()
    shown = tuple(_without_long_tables(s) for s in document.sections if s.id not in _SECTIONS)
    return shown, tuple(s.title for s in document.sections if s.id in _SECTIONS)


def _without_long_tables(section: Section) -> Section:
    return replace(section, tables=tuple(t for t in section.tables if t.id not in _TABLES))


def _goals(table: Table) -> Iterator[tuple[str, str]]:
    """Each row of advice as a sentence, and how to follow it: a terminal is too narrow for its table."""
    keys = [column.key for column in table.columns]
    for row in table.rows:
        cell = {key: "" if value is None else str(value) for key, value in zip(keys, row, strict=True)}
        yield f"For {cell['premise']}: {cell['advice']}; {cell['because']}.", cell["fix"]
