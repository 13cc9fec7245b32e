"""Shows a document: terminal, JSON, Markdown, one self-contained HTML page. It computes nothing.

jinja2, matplotlib and rich load when a page, a chart or a terminal is first rendered.
"""

from sftloss.report.json import from_json, schema, to_json
from sftloss.report.markdown import render_markdown
from sftloss.report.page.html import render_comparison, render_html
from sftloss.report.report import Report
from sftloss.report.terminal import render_terminal

__all__ = [
    "Report",
    "from_json",
    "render_comparison",
    "render_html",
    "render_markdown",
    "render_terminal",
    "schema",
    "to_json",
]
