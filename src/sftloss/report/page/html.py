"""Pages that need nothing else, of one document or several: no network, no script to be read, light, dark, print."""

from __future__ import annotations

import base64
import hashlib
import typing
from collections.abc import Callable, Sequence
from functools import partial
from importlib import resources

from sftloss.document import Document, by_severity
from sftloss.report.format import count_line
from sftloss.report.language import translated
from sftloss.report.page.view import PageLimits, Values, finding_view, view
from sftloss.report.text import clean, prose

if typing.TYPE_CHECKING:
    from jinja2 import Environment

MAX_BYTES = 1_500_000
_LADDER = (
    PageLimits(),
    PageLimits(rows=30, data_rows=25, tokens=200, strips=6, cell=200),
    PageLimits(rows=12, data_rows=8, tokens=60, strips=2, cell=80),
)


def _read(name: str) -> str:
    return (resources.files("sftloss.report") / "templates" / name).read_text(encoding="utf-8")


def _environment(language: str) -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    # autoescape for every template, whatever its file is called: all texts of a document are somebody's data
    environment = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["_"] = partial(translated, language=language)
    return environment


def render_page(template: str, values: Values, language: str) -> str:
    """A template of this room with our stylesheet, script, content policy and its fixed texts in a language."""
    from markupsafe import Markup

    script = _read("comfort.js").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    fixed = {"lang": language, "policy": policy, "css": Markup(_read("report.css")), "script": Markup(script)}
    return _environment(language).get_template(template).render(**values, **fixed)


def within_budget(name: str, render: Callable[[PageLimits], str]) -> str:
    """The fullest page that `render` makes of at most `MAX_BYTES`, showing fewer rows and tokens until it fits.

    Raises:
        ValueError: If the smallest form is still larger. The message begins with `name`.
    """
    for limits in _LADDER:
        page = render(limits)
        size = len(page.encode())
        if size <= MAX_BYTES:
            return page
    raise ValueError(f"{name}: the page has {size:,} bytes, the limit is {MAX_BYTES:,}. Use fewer sections or charts.")


def render_html(document: Document) -> str:
    """The document as one self-contained HTML page of at most 1.5 MB, the same bytes for the same document.

    Findings come first. Every chart is inline SVG with a text alternative and its numbers in a table. A document too
    large for the budget shows fewer rows and tokens and says how many are hidden; the JSON keeps all.

    Args:
        document: What an analysis says. Its texts may be anything: they are shown, never obeyed.

    Returns:
        The page. It loads nothing and its content policy forbids it to.

    Raises:
        ValueError: If the smallest form of the page is still larger than the budget.
    """
    counts = translated(count_line(document.findings), document.language)

    def page(limits: PageLimits) -> str:
        return render_page("page.html", {"doc": view(document, limits), "counts": counts}, document.language)

    return within_budget("render_html", page)


def _finding_rows(documents: Sequence[Document]) -> list[Values]:
    """One row a finding id, worst first: what each document says of it, or nothing."""
    every = by_severity(tuple(finding for document in documents for finding in document.findings))
    rows = []
    for name in dict.fromkeys(finding.id for finding in every):
        cells = [
            [finding_view(f, one.language) for f in by_severity(one.findings) if f.id == name] for one in documents
        ]
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
    language = (differences or documents[0]).language
    counts = [translated(count_line(document.findings), language) for document in documents]
    fixed: Values = {
        "title": translated("Comparison of " + ", ".join(names), language),
        "findings": _finding_rows(documents),
        "facts": _fact_rows(documents),
    }

    def page(limits: PageLimits) -> str:
        views = [
            view(document, limits, prefix=f"d{i}-", others=[*documents[:i], *documents[i + 1 :]])
            for i, document in enumerate(documents)
        ]
        columns = list(zip(names, views, counts, strict=True))
        told = view(differences, limits, prefix="differ-")["sections"] if differences else []
        lines = [prose(line) for line in differences.headlines] if differences else []
        parts = {"columns": columns, "sections": _section_rows(views), "differences": told, "headlines": lines}
        return render_page("comparison.html", fixed | parts, language)

    return within_budget("render_comparison", page)
