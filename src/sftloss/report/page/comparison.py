"""Several documents side by side: what differs between runs, then each section beside itself."""

from __future__ import annotations

import typing
from collections.abc import Sequence

from sftloss.document import Document, Finding, by_severity
from sftloss.report.format import SEVERITIES, count_line, finding_number
from sftloss.report.page.html import render_page, within_budget
from sftloss.report.page.view import Limits, Values, view
from sftloss.report.text import clean, prose


def _finding_cell(finding: Finding) -> Values:
    word = SEVERITIES[finding.severity].word
    number, interval = finding_number(finding)
    texts = {"number": number, "interval": interval, "sentence": prose(finding.sentence)}
    return {"severity": finding.severity, "word": word, **texts}


def _finding_rows(documents: Sequence[Document]) -> list[Values]:
    """One row a finding id, worst first: what each document says of it, or nothing."""
    every = by_severity(tuple(finding for document in documents for finding in document.findings))
    rows = []
    for name in dict.fromkeys(finding.id for finding in every):
        cells = [[_finding_cell(f) for f in by_severity(one.findings) if f.id == name] for one in documents]
        rows.append({"id": clean(name), "cells": cells})
    return rows


def _fact_rows(documents: Sequence[Document]) -> list[Values]:
    """One row a fact, those that differ first."""
    tables = [dict(document.facts) for document in documents]
    rows: list[Values] = []
    for label in dict.fromkeys(label for table in tables for label in table):
        values = [clean(table.get(label, "")) for table in tables]
        rows.append({"label": clean(label), "values": values, "differs": len(set(values)) > 1})
    return sorted(rows, key=lambda row: not row["differs"])


def _section_rows(views: Sequence[Values]) -> list[Values]:
    """Each section once, with its form in each document (None where a document lacks it)."""
    pages = [[one for one in (document["answer"], *document["sections"]) if one] for document in views]
    every = [section for page in pages for section in page]
    rows = []
    for index, name in enumerate(dict.fromkeys(section["id"] for section in every)):
        parts = [next((section for section in page if section["id"] == name), None) for page in pages]
        first = next(part for part in parts if part)
        rows.append({"anchor": f"part-{index}", "title": first["title"], "level": first["level"], "parts": parts})
    return rows


def render_comparison(documents: Sequence[Document], labels: Sequence[str], differences: Document | None = None) -> str:
    """Several documents on one self-contained page: what differs first, then each section beside itself.

    Args:
        documents: At least one. Sections are matched by their ids, findings by theirs.
        labels: What to call each of them; as many as documents.
        differences: Sections on what differs between them, shown before everything else.

    Returns:
        The page, under the same rules as :func:`sftloss.report.render_html`.

    Raises:
        ValueError: If the numbers of documents and labels differ, there is none, or the page exceeds its budget.
    """
    if not documents or len(documents) != len(labels):
        raise ValueError(f"render_comparison: got {len(documents)} documents and {len(labels)} labels. Give one each.")
    names = [clean(label) for label in labels]
    counts = [count_line(document.findings) for document in documents]
    fixed: dict[str, typing.Any] = {
        "title": "Comparison of " + ", ".join(names),
        "findings": _finding_rows(documents),
        "facts": _fact_rows(documents),
    }

    def page(limits: Limits) -> str:
        views = [
            view(document, limits, prefix=f"d{i}-", others=[*documents[:i], *documents[i + 1 :]])
            for i, document in enumerate(documents)
        ]
        columns = list(zip(names, views, counts, strict=True))
        told = view(differences, limits, prefix="differ-")["sections"] if differences else []
        lines = [prose(line) for line in differences.headlines] if differences else []
        parts = {"columns": columns, "sections": _section_rows(views), "differences": told, "headlines": lines}
        return render_page("comparison.html", fixed | parts)

    return within_budget("render_comparison", page)
