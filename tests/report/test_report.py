"""The report in hand, and files that are old or new but never half."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.report._html import Page

from sftloss.document import Document
from sftloss.report import Report, render_html, to_json


def test_report_writes_what_it_returns(calm: Document, tmp_path: Path):
    report = Report(calm)
    for name, write in (("html", report.to_html), ("json", report.to_json), ("md", report.to_markdown)):
        path = tmp_path / f"report.{name}"
        assert write(path).encode() == path.read_bytes()
    assert report.to_html() == render_html(calm) and report.to_json() == to_json(calm)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]


def test_report_in_a_notebook_is_a_sandboxed_frame(hostile: Document):
    (frame,) = Page(Report(hostile)._repr_html_()).tags
    assert frame[0] == "iframe" and frame[1]["sandbox"] is None
    assert frame[1]["srcdoc"] == render_html(hostile)


def test_report_prints_as_the_terminal_shows_it(calm: Document):
    shown = str(Report(calm))
    assert "Error MASK003" in shown and "\x1b" not in shown
    assert repr(Report(calm)) == "Report('Signal report english', 1 error, 1 warning, 1 note, 3 sections)"


def test_report_loads_drawing_and_templates_only_when_asked():
    loaded = (
        "import sys, sftloss.report; print([m for m in ('matplotlib', 'jinja2', 'rich', 'polars') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
