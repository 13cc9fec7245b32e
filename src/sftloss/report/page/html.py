"""One page that needs nothing else: no network, no script to be read, light, dark and print."""

from __future__ import annotations

import base64
import hashlib
import typing
from collections.abc import Callable
from importlib import resources

from sftloss.document import Document
from sftloss.report.format import count_line
from sftloss.report.page.view import Limits, view

if typing.TYPE_CHECKING:
    from jinja2 import Environment

MAX_BYTES = 1_500_000
_LADDER = (
    Limits(),
    Limits(rows=30, data_rows=25, tokens=200, strips=6, cell=200),
    Limits(rows=12, data_rows=8, tokens=60, strips=2, cell=80),
)


def _read(name: str) -> str:
    return (resources.files("sftloss.report") / "templates" / name).read_text(encoding="utf-8")


def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    # autoescape for every template, whatever its file is called: all texts of a document are somebody's data
    return Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def render_page(template: str, values: dict[str, typing.Any]) -> str:
    """A template of this room with our stylesheet, script and content policy filled in."""
    from markupsafe import Markup

    script = _read("comfort.js").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    fixed = {"policy": policy, "css": Markup(_read("report.css")), "script": Markup(script)}
    return _environment().get_template(template).render(**values, **fixed)


def within_budget(name: str, render: Callable[[Limits], str]) -> str:
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
    counts = count_line(document.findings)
    return within_budget(
        "render_html", lambda limits: render_page("page.html", {"doc": view(document, limits), "counts": counts})
    )
