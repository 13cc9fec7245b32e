"""A document on a terminal: headlines, findings, a compact table or two per section, examples token by token."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from sftloss.document import Document, Finding, Section, Table, TokenStrip, by_severity
from sftloss.report.cells import ShownTable, chart_table, show
from sftloss.report.format import SEVERITIES, count_line, finding_number, level_parts
from sftloss.report.language import translated
from sftloss.report.text import clean, clean_block, columns, fold, shorten, visible, wrap
from sftloss.words import counted

if typing.TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_ROWS = 10
# of a long analysis a terminal shows answers and a few compact tables; the page and the JSON have the rest
_SECTIONS = ("tokens", "tilt", "positions", "influential", "appendix", "method")
_TABLES = ("gradient-factor",)
_SHORT = 30  # columns of a cell that needs no line of its own
_GAP = 3  # columns between two columns of a table
_TRAINED, _PARTLY, _UNTRAINED, _ROLE = "bold green", "green", "dim", "bold magenta"


def _say(console: Console, text: str, style: str = "", width: int | None = None) -> Text:
    """Text as data: rich reads no markup in it, and breaks lines at blanks only, so wide text is folded before."""
    from rich.text import Text

    lines = (fold(line, width or console.width) for line in clean_block(text).split("\n"))
    return _encodable(Text("\n".join(lines), style=style), console)


def _encodable(line: Text, console: Console) -> Text:
    """What the terminal's encoding lacks becomes a question mark; one for one, so that styles stay in place."""
    encoding = console.encoding or "utf-8"
    line.plain = "".join(c.encode(encoding, "replace").decode(encoding) for c in line.plain)
    return line


def render_terminal(document: Document, console: Console) -> None:
    """Print `document` to a rich console. Colour, width and encoding are the console's (it honours ``NO_COLOR``)."""
    if document.answer:
        _answer(console, document.answer, document.language)
        console.print()
    for headline in document.headlines:
        console.print(_say(console, clean(headline), "bold"))
    console.print(_say(console, f"\n{clean(document.title)}", "bold underline"))
    findings = by_severity(document.findings)
    language = document.language
    console.print(_say(console, translated(f"Findings: {count_line(findings)}", language), "bold"))
    for finding in findings:
        _finding(console, finding, language)
    sections, rest = _summary(document)
    for section in sections:
        _section(console, section, language)
    render_mask([strip for section in sections for strip in section.strips], console, language)
    if rest:
        console.print()
        line = f"Also in the HTML and JSON reports: {', '.join(clean(title) for title in rest)}."
        console.print(_say(console, translated(line, language), "dim"))
    if document.facts:
        console.print()
        facts = translated("; ", language).join(f"{clean(k)} {clean(v)}" for k, v in document.facts)
        console.print(_say(console, facts, "dim"))


def _finding(console: Console, finding: Finding, language: str) -> None:
    severity = SEVERITIES[finding.severity]
    is_unicode = (console.encoding or "").lower().startswith("utf")
    line = _say(console, severity.shape if is_unicode else severity.ascii, severity.style)
    line.append(" ").append_text(
        _say(console, f"{translated(severity.word, language)} {clean(finding.id)}", severity.style)
    )
    rest = console.width - columns(line.plain) - 2
    line.append("  ").append_text(_say(console, clean(finding.sentence), width=max(20, rest)))
    console.print()
    console.print(line)
    numbers = translated(", ".join(filter(None, finding_number(finding))), language)
    for text, style in ((numbers, "bold"), (clean(finding.why), "dim"), (str(finding.fix), "cyan")):
        if text:
            _indented(console, text, style)
    if finding.rows:
        rows = translated(", ", language).join(clean(row) for row in finding.rows[:3])
        label = "rows" if len(finding.rows) <= 3 else "rows, for example"  # a finding holds ten at most
        _indented(console, f"{translated(label, language)}{translated(': ', language)}{rows}", "dim")


def _indented(console: Console, text: str, style: str) -> None:
    # wrapped by hand: rich's Padding fills every line to the full width with blanks
    width = max(20, console.width - 2)
    for line in _say(console, text, style, width).wrap(console, width):
        console.print("  ", line, sep="")


def _section(console: Console, section: Section, language: str) -> None:
    console.print()
    level = f"  [{level_parts(section.level)[0]}]" if section.level else ""
    console.print(_say(console, clean(section.title) + level, "bold underline"))
    console.print(_say(console, clean(section.lead)))
    # a chart stands in only where a section has no table: a terminal shows its numbers, not its picture
    for table in section.tables or tuple(chart_table(chart) for chart in section.charts):
        (_advice if table.id == "advice" else _table)(console, table, language)


def _answer(console: Console, section: Section, language: str) -> None:
    """The lead, and a few lines a row where its cells are sentences, too long for columns."""
    console.print(_say(console, clean(section.lead), "bold"))
    for table in section.tables:
        shown = show(table, _ROWS, language)
        if all(columns(cell.text) <= _SHORT for row in shown.rows for cell in row[1:]):
            _table(console, table, language)
            continue
        for first, *rest in shown.rows:
            cells = [(column.label, cell) for column, cell in zip(shown.columns[1:], rest, strict=True) if str(cell)]
            if len(cells) == 1:
                console.print(_say(console, f"{first}{translated(': ', language)}{cells[0][1]}"))
                continue
            console.print(_say(console, f"\n{first}", "bold"))
            for label, cell in cells:
                _indented(console, f"{clean(label)}{translated(': ', language)}{cell}", "")
        if table.note:
            console.print(_say(console, f"\n{clean(table.note)}", "dim"))
    for note in section.notes:
        console.print(_say(console, clean(note), "dim"))


def _advice(console: Console, table: Table, language: str) -> None:
    """Each row as a sentence, and how to follow it: a terminal is too narrow for its table."""
    keys = [column.key for column in table.columns]
    for row in table.rows:
        cell = {key: "" if value is None else clean(str(value)) for key, value in zip(keys, row, strict=True)}
        console.print()
        sentence = translated("For {}: {}; {}.", language).format(cell["premise"], cell["advice"], cell["because"])
        console.print(_say(console, sentence))
        if cell["fix"]:
            _indented(console, cell["fix"], "cyan")


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


def _table(console: Console, table: Table, language: str) -> None:
    from rich import box
    from rich.table import Table as Grid

    shown = show(table, _ROWS, language)
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
    hidden = [counted(len(table.rows) - _ROWS, "more row")] if len(table.rows) > _ROWS else []
    hidden += [counted(len(shown.columns) - count, "more column")] if count < len(shown.columns) else []
    if hidden:
        line = f"{' and '.join(hidden)} in the HTML and JSON reports."
        console.print(_say(console, translated(line, language), "dim"))
    if table.note:
        console.print(_say(console, clean(table.note), "dim"))


def _summary(document: Document) -> tuple[tuple[Section, ...], tuple[str, ...]]:
    """The sections to show, without their long tables, and the titles of those left out; short documents are whole."""
    if not any(section.id == "comparison" for section in document.sections):
        return document.details, ()
    shown = [section for section in document.details if section.id not in _SECTIONS]
    short = (replace(s, tables=tuple(t for t in s.tables if t.id not in _TABLES)) for s in shown)
    return tuple(short), tuple(s.title for s in document.sections if s.id in _SECTIONS)


def render_mask(strips: Sequence[TokenStrip], console: Console, language: str = "en") -> None:
    """Print what is trained in each example. Without colours trained tokens stand in brackets.

    Args:
        strips: Examples whose first measure is the weight.
        console: Colour and encoding are the console's (it honours ``NO_COLOR``).
        language: Of the heading and the legend.
    """
    from rich.text import Text

    if not strips:
        return
    is_plain = console.color_system is None or console.no_color
    roles = dict.fromkeys(role for strip in strips for role in strip.roles)
    letters = translated(", ", language).join(f"{role[0].upper()} {role}" for role in roles)
    legend = "[trained] not trained" if is_plain else "green is trained, dim is not"
    console.print()
    console.print(Text(translated("Examples token by token", language), style="bold underline"))
    console.print(Text(f"{translated(legend, language)}{translated('; ', language)}{letters}"))
    for strip in strips:
        console.print()
        console.print(_encodable(Text(clean(strip.title), style="bold"), console))
        console.print(_encodable(_line(strip, is_plain), console))


def _line(strip: TokenStrip, is_plain: bool) -> typing.Any:
    from rich.text import Text

    line, speaker, is_open = Text(), "", False
    kinds = zip(strip.tokens, strip.roles, strip.values[0], strict=True)
    for (role, value), part in groupby(kinds, key=lambda kind: kind[1:]):
        is_trained = value > 0
        if is_plain and is_open and (not is_trained or role != speaker):
            line.append("]")
            is_open = False
        if role != speaker:
            line.append("\n" if speaker else "").append(f"{role[0].upper()}>", style="" if is_plain else _ROLE).append(
                " "
            )
            speaker = role
        if is_plain and is_trained and not is_open:
            line.append("[")
            is_open = True
        style = "" if is_plain else _UNTRAINED if not is_trained else _TRAINED if value > 0.5 else _PARTLY
        line.append("".join(visible(token) for token, _, _ in part), style=style)
    return line.append("]" if is_open else "")
