"""A document as the page's template reads it: texts cleaned, numbers written, lists cut to what a page can hold."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sftloss.document import Chart, Document, Finding, Section, Table, TokenStrip, by_severity
from sftloss.report.cells import ShownTable, chart_table, show
from sftloss.report.charts.charts import COMPACT, DASHES, MARKERS, NARROW, WIDTH, draws_dots, render_chart
from sftloss.report.charts.svg import SERIES
from sftloss.report.format import SEVERITIES, bucket, explain_level, finding_number, level_parts
from sftloss.report.language import translated
from sftloss.report.text import clean, clean_block, ended, prose, shorten, visible

if typing.TYPE_CHECKING:
    from markupsafe import Markup

Values = dict[str, typing.Any]
LETTERS = "abcdefgh"  # one a measure of a strip
_FOLDED = 6  # a longer table that a chart shows whole is opened by those who want its numbers
_COMMAND = re.compile(r"(?:^|(?<=: )|(?<=：))(?:sftloss|torchrun|python|pip) \S", re.MULTILINE)


@dataclass(frozen=True)
class PageLimits:
    """How much a page shows. The JSON keeps everything."""

    rows: int = 60
    data_rows: int = 60
    tokens: int = 600
    strips: int = 12
    cell: int = 400


def slug(text: str) -> str:
    """An id for anchors: letters, digits and hyphens only, never empty."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "part"


def _cell_class(shown: ShownTable, index: int) -> str:
    """n: a number, set flush right; w: text long enough to wrap, which needs room to do it well; else short text."""
    if shown.is_number(index):
        return "n"
    return "w" if max((len(row[index].text) for row in shown.rows), default=0) > 14 else "s"


def _stacks(shown: ShownTable, classes: Sequence[str]) -> bool:
    """Whether the columns need more than the width of a phone, which then shows a row as a block of named lines."""
    needed = 0.0
    for index, kind in enumerate(classes):
        words = max((len(word) for word in shown.label(index).split()), default=0)
        texts = [max(len(row[index].text), len(row[index].interval)) for row in shown.rows]
        needed += 22 + 7.2 * max(20 if kind == "w" else max(texts, default=0), words)
    return needed > NARROW


def _cell(text: str, limits: PageLimits) -> str | list[str]:
    """A text, or the words of one that holds flags: those must not be broken at their hyphens."""
    text = shorten(prose(text), limits.cell)
    return text.split(" ") if "--" in text else text


def _table(table: Table, limits: PageLimits, language: str) -> Values:
    shown = show(table, limits.rows, language)
    classes = [_cell_class(shown, i) for i in range(len(shown.columns))]
    return {
        "title": clean(table.title),
        "stacks": _stacks(shown, classes),
        "columns": [
            {"label": prose(column.label), "help": ended(prose(column.help)), "class": kind}
            for column, kind in zip(shown.columns, classes, strict=True)
        ],
        "rows": [[(_cell(cell.text, limits), prose(cell.interval)) for cell in row] for row in shown.rows],
        "hidden": len(table.rows) - len(shown.rows),
        "note": prose(table.note),
    }


def _legend(chart: Chart) -> list[Values]:
    """One entry a series, unless there is nothing to tell apart."""
    if len(chart.series) < 2:
        return []
    entries: list[Values] = []
    index = 0
    form = "point" if draws_dots(chart) else chart.kind
    for series in chart.series:
        if series.is_faint and chart.kind == "line":
            index += 1
            continue
        entry: Values = {"label": shorten(clean(series.label), 120), "kind": "reference"}
        if series.is_reference:
            entry["dash"] = "3 3" if sum(e["kind"] == "reference" for e in entries) % 2 and chart.kind == "line" else ""
        else:
            entry |= {
                "kind": "hollow" if series.is_faint else form,
                "colour": index % len(SERIES),
                "dash": DASHES[index % len(DASHES)],
                "marker": MARKERS[index % len(MARKERS)],
            }
            index += 1
        entries.append(entry)
    return entries


@dataclass(frozen=True)
class _Context:
    """What of a chart's surroundings changes how it is shown.

    Attributes:
        lead: What the section says first.
        has_table: The table beside it has the numbers, so that its description is for those who cannot see it.
        numbers: A table of the section with this chart's title: its numbers, better than the chart can tell them.
        alongside: The same chart of other documents, whose values share its scale.
        width: Pixels.
        language: Of the document.
    """

    lead: str = ""
    has_table: bool = False
    numbers: Table | None = None
    alongside: tuple[Chart, ...] = ()
    width: float = WIDTH
    language: str = "en"


def _chart(chart: Chart, prefix: str, limits: PageLimits, context: _Context) -> Values:
    from markupsafe import Markup

    # the only text of the page that is not escaped by the template: our own SVG, escaped by its XML writer
    draw = partial(render_chart, chart, alongside=context.alongside, language=context.language)
    wide: Markup = Markup(draw(prefix=prefix, width=context.width))
    narrow: Markup = Markup(draw(prefix=f"{prefix}-narrow", width=NARROW))
    is_told = context.has_table or chart.description == context.lead
    has_interval = any(bound is not None for series in chart.series for bound in series.low or ())
    drawn = {"line": "shaded", "bar": "thin line", "point": "line"}[chart.kind]
    data = _table(
        context.numbers or chart_table(chart), PageLimits(rows=limits.data_rows, cell=limits.cell), context.language
    )
    return {
        "title": clean(chart.title),
        # said once: where it is the lead or beside a table it stays in the picture, for those who cannot see it
        "description": "" if is_told else ended(prose(chart.description)),
        "wide": wide,
        "narrow": narrow,
        "legend": _legend(chart),
        "interval": translated(f"{drawn}: {prose(chart.bounds)}", context.language) if has_interval else "",
        "data": data,
    }


def _tokens(strip: TokenStrip, roles: list[str], limits: PageLimits) -> list[Values]:
    measures = strip.measures[: len(LETTERS)]
    tokens = []
    for i, token in enumerate(strip.tokens[: limits.tokens]):
        values = [float(v[i]) if i < len(v) and v[i] is not None else math.nan for v in strip.values[: len(measures)]]
        shades = " ".join(f"{letter}{bucket(v)}" for letter, v in zip(LETTERS, values, strict=False) if bucket(v))
        role = strip.roles[i] if i < len(strip.roles) else ""
        parts = [clean(role), *(f"{clean(m)} {v:.2f}" for m, v in zip(measures, values, strict=False) if v == v)]
        line = f"r{min(roles.index(role), 4) if role in roles else 4}"
        text = shorten(visible(token), 120)
        tokens.append(
            {"text": text, "class": f"{line} {shades}".strip(), "title": ", ".join(parts), "breaks": "\n" in token}
        )
    return tokens


def _strip_groups(strips: Sequence[TokenStrip], limits: PageLimits) -> list[Values]:
    """Strips that share their measures share one switch and one legend."""
    groups: dict[tuple[str, ...], list[TokenStrip]] = {}
    for strip in strips[: limits.strips]:
        groups.setdefault(strip.measures[: len(LETTERS)], []).append(strip)
    shown = []
    for measures, members in groups.items():
        roles = list(dict.fromkeys(role for strip in members for role in strip.roles))
        parts = [
            {
                "title": clean(strip.title),
                "tokens": _tokens(strip, roles, limits),
                "hidden": max(0, len(strip.tokens) - limits.tokens),
            }
            for strip in members
        ]
        names = [(letter, clean(measure)) for letter, measure in zip(LETTERS, measures, strict=False)]
        shown.append(
            {
                "measures": names,
                "roles": [(min(i, 4), clean(r)) for i, r in enumerate(roles)],
                "strips": parts,
                "continues": any("·" in strip.tokens for strip in members),
            }
        )
    return shown


def _section(
    section: Section, prefix: str, limits: PageLimits, language: str, others: Sequence[Section] = ()
) -> Values:
    name, meaning = level_parts(section.level)  # the name is for the badge
    titles = {chart.title for chart in section.charts}
    folded = {table.title: table for table in section.tables if len(table.rows) > _FOLDED and table.title in titles}
    charts = []
    for i, chart in enumerate(section.charts):
        alongside = tuple(c for other in others for c in other.charts if c.id == chart.id and c.kind == chart.kind)
        is_answer = section.id == "answer"
        width, has_table = COMPACT if is_answer else WIDTH, is_answer and bool(section.tables)
        context = _Context(section.lead, has_table, folded.get(chart.title), alongside, width, language)
        charts.append(_chart(chart, f"{prefix}-c{i}", limits, context))
    return {
        "anchor": prefix,
        "id": section.id,
        "title": clean(section.title),
        "lead": prose(section.lead),
        "level": (name, meaning or translated(explain_level(name), language)),
        "charts": charts,
        "tables": [_table(table, limits, language) for table in section.tables if folded.get(table.title) is not table],
        "strip_groups": _strip_groups(section.strips, limits),
        "hidden_strips": max(0, len(section.strips) - limits.strips),
        "notes": [prose(note) for note in section.notes],
    }


def _fix(fix: str) -> Values:
    """What to do in words, and what to run or to paste: only that is offered for copying."""
    text = clean_block(fix).strip("\n")
    command = _COMMAND.search(text)
    start = command.start() if command else 0 if "\n" in text else len(text)
    words = prose(text[:start]).strip()
    code = [line.split(" ") for line in text[start:].split("\n")] if text[start:] else []
    return {"words": ended(words[:1].upper() + words[1:]), "code": code}


def finding_view(finding: Finding, language: str, anchor: str = "") -> Values:
    """A finding as the templates read it."""
    number, interval = (translated(part, language) for part in finding_number(finding))
    severity = SEVERITIES[finding.severity]
    return {
        "anchor": anchor,
        "id": clean(finding.id),
        "severity": finding.severity,
        "word": translated(severity.word, language),
        "sentence": prose(finding.sentence),
        "number": number,
        "interval": interval,
        "why": prose(finding.why),
        **_fix(str(finding.fix)),
        "rows": [clean(row) for row in finding.rows],
    }


def _anchors(names: Sequence[str], prefix: str) -> list[str]:
    """Ids that stay the same from run to run and never repeat on a page."""
    taken: dict[str, int] = {}
    anchors = []
    for name in names:
        base = f"{prefix}{slug(name)}"
        taken[base] = taken.get(base, 0) + 1
        # a double hyphen cannot come out of slug(), so a numbered id never meets a given one
        anchors.append(base if taken[base] == 1 else f"{base}--{taken[base]}")
    return anchors


def _pairs(pairs: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    return [(clean(label), clean(value)) for label, value in pairs]


def view(
    document: Document, limits: PageLimits | None = None, *, prefix: str = "", others: Sequence[Document] = ()
) -> Values:
    """Everything the template needs for one document; `prefix` keeps the ids of two documents on a page apart.

    The charts of `others` with the same ids share their scales with this document's.
    """
    limits = limits or PageLimits()
    findings = by_severity(document.findings)
    at = _anchors([f.id for f in findings], f"{prefix}f-")
    beside: dict[str, list[Section]] = {}
    for section in (section for other in others for section in other.sections):
        beside.setdefault(section.id, []).append(section)
    anchors = _anchors([s.id for s in document.sections], f"{prefix}s-")
    sections = [
        _section(part, anchor, limits, document.language, beside.get(part.id, ()))
        for part, anchor in zip(document.sections, anchors, strict=True)
    ]
    shown = [finding_view(finding, document.language, anchor) for finding, anchor in zip(findings, at, strict=True)]
    return {
        "title": clean(document.title),
        "headlines": [prose(headline) for headline in document.headlines],
        "findings": shown,
        "faults": [finding for finding in shown if finding["severity"] != "info"],
        "answer": next((section for section in sections if section["id"] == "answer"), None),
        "sections": [section for section in sections if section["id"] != "answer"],
        "facts": _pairs(document.facts),
        "provenance": _pairs(document.provenance),
        "schema_version": clean(document.schema_version),
    }
