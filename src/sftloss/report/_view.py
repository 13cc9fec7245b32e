"""A document as the page's template reads it: texts cleaned, numbers written, lists cut to what a page can hold."""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass

from sftloss.analysis.document import Chart, Column, Document, Finding, Section, Table, TokenStrip
from sftloss.report._chart_data import chart_table
from sftloss.report._charts import DASHES, MARKERS, render_chart
from sftloss.report._format import NUMERIC, finding_number, format_cell
from sftloss.report._order import SEVERITIES, bucket, by_severity, explain_level
from sftloss.report._svg import SERIES
from sftloss.report._text import clean, clean_block, shorten, visible

if typing.TYPE_CHECKING:
    from markupsafe import Markup

View = dict[str, typing.Any]
LETTERS = "abcdefgh"  # one a measure of a strip


@dataclass(frozen=True)
class Limits:
    """How much a page shows. The JSON keeps everything."""

    rows: int = 60
    data_rows: int = 60
    tokens: int = 600
    strips: int = 12
    cell: int = 400


def slug(text: str) -> str:
    """An id for anchors: letters, digits and hyphens only, never empty."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "part"


def _cell_class(column: Column, texts: list[str]) -> str:
    """n: a number, set flush right; w: text long enough to wrap, which needs room to do it well; else short text."""
    if column.kind in NUMERIC:
        return "n"
    return "w" if max((len(text) for text in texts), default=0) > 14 else "s"


def _table(table: Table, limits: Limits) -> View:
    kinds = [column.kind for column in table.columns]
    shown = [
        [shorten(format_cell(v, k), limits.cell) for v, k in zip(row, kinds, strict=False)]
        for row in table.rows[: limits.rows]
    ]
    return {
        "title": clean(table.title),
        "columns": [
            {
                "label": clean(c.label),
                "help": clean(c.help),
                "class": _cell_class(c, [row[i] for row in shown if i < len(row)]),
            }
            for i, c in enumerate(table.columns)
        ],
        "rows": shown,
        "hidden": len(table.rows) - len(shown),
        "note": clean(table.note),
    }


def _legend(chart: Chart) -> list[View]:
    """One entry a series, unless there is nothing to tell apart."""
    if len(chart.series) < 2:
        return []
    entries, index = [], 0
    for series in chart.series:
        entry: View = {
            "label": shorten(clean(series.label), 120),
            "kind": "reference" if series.is_reference else chart.kind,
        }
        if not series.is_reference:
            entry |= {
                "colour": index % len(SERIES),
                "dash": DASHES[index % len(DASHES)],
                "marker": MARKERS[index % len(MARKERS)],
            }
            index += 1
        entries.append(entry)
    return entries


def _chart(chart: Chart, prefix: str, limits: Limits) -> View:
    from markupsafe import Markup

    # the only text of the page that is not escaped by the template: our own SVG, escaped by its XML writer
    picture: Markup = Markup(render_chart(chart, prefix=prefix))
    has_interval = any(s.low is not None and s.high is not None for s in chart.series)
    told = {"line": "shaded: interval", "bar": "thin line: interval", "point": "line: interval"}[chart.kind]
    data = _table(chart_table(chart), Limits(rows=limits.data_rows, cell=limits.cell))
    return {
        "title": clean(chart.title),
        "description": clean(chart.description),
        "svg": picture,
        "legend": _legend(chart),
        "interval": told if has_interval else "",
        "data": data,
    }


def _strip(strip: TokenStrip, limits: Limits) -> View:
    measures = [clean(m) for m in strip.measures[: len(LETTERS)]]
    roles = list(dict.fromkeys(strip.roles))
    tokens = []
    for i, token in enumerate(strip.tokens[: limits.tokens]):
        values = [
            float(v[i]) if i < len(v) and v[i] is not None else float("nan") for v in strip.values[: len(measures)]
        ]
        shades = " ".join(f"{letter}{bucket(v)}" for letter, v in zip(LETTERS, values, strict=False) if bucket(v))
        role = strip.roles[i] if i < len(strip.roles) else ""
        parts = [clean(role), *(f"{m} {v:.2f}" for m, v in zip(measures, values, strict=False) if v == v)]
        text = shorten(visible(token), 120)
        tokens.append(
            {
                "text": text,
                "class": f"r{min(roles.index(role), 4) if role in roles else 4} {shades}".strip(),
                "title": ", ".join(parts),
                "breaks": "\n" in token,
            }  # fmt: skip
        )
    return {
        "title": clean(strip.title),
        "measures": list(zip(LETTERS, measures, strict=False)),
        "roles": [(min(i, 4), clean(role)) for i, role in enumerate(roles)],
        "tokens": tokens,
        "hidden": len(strip.tokens) - len(tokens),
    }


def _section(section: Section, prefix: str, limits: Limits) -> View:
    return {
        "anchor": prefix,
        "id": section.id,
        "title": clean(section.title),
        "lead": clean(section.lead),
        "level": clean(section.level),
        "level_help": explain_level(section.level),
        "charts": [_chart(chart, f"{prefix}-c{i}", limits) for i, chart in enumerate(section.charts)],
        "tables": [_table(table, limits) for table in section.tables],
        "strips": [_strip(strip, limits) for strip in section.strips[: limits.strips]],
        "hidden_strips": max(0, len(section.strips) - limits.strips),
        "notes": [clean(note) for note in section.notes],
    }


def _finding(finding: Finding, anchor: str) -> View:
    number, interval = finding_number(finding)
    severity = SEVERITIES[finding.severity]
    return {
        "anchor": anchor,
        "id": clean(finding.id),
        "severity": finding.severity,
        "word": severity.word,
        "sentence": clean(finding.sentence),
        "number": number,
        "interval": interval,
        "why": clean(finding.why),
        "fix": clean_block(finding.fix).strip("\n"),
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


def view(document: Document, limits: Limits | None = None, *, prefix: str = "") -> View:
    """Everything the template needs for one document; `prefix` keeps the ids of two documents on a page apart."""
    limits = limits or Limits()
    findings = by_severity(document.findings)
    at = _anchors([f.id for f in findings], f"{prefix}f-")
    sections = zip(document.sections, _anchors([s.id for s in document.sections], f"{prefix}s-"), strict=True)
    return {
        "title": clean(document.title),
        "headlines": [clean(headline) for headline in document.headlines],
        "findings": [_finding(finding, anchor) for finding, anchor in zip(findings, at, strict=True)],
        "sections": [_section(section, anchor, limits) for section, anchor in sections],
        "facts": _pairs(document.facts),
        "provenance": _pairs(document.provenance),
        "schema_version": clean(document.schema_version),
    }
