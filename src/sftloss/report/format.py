"""Numbers as people read them: one place, so that terminal, Markdown, HTML and charts agree."""

from __future__ import annotations

import math
from collections.abc import Callable

from sftloss.document import Cell, Finding
from sftloss.report.text import clean

NUMERIC = frozenset({"integer", "number", "percent", "ratio", "nats"})


def _number(value: float) -> str:
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e15 or size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.0f}" if size >= 999.5 else f"{value:#.3g}".rstrip(".")


def _percent(share: float) -> str:
    percent = 100 * share
    # one decimal is enough above 1 %; below it, two significant digits, so that a small share is not shown as none
    return f"{percent:.1f}%" if abs(percent) >= 1 or percent == 0 else f"{percent:.2g}%"


def _ratio(value: float) -> str:
    return f"{value:,.2f}×" if value == 0 or 0.095 <= abs(value) < 1e6 else f"{_number(value)}×"


_KINDS: dict[str, Callable[[float], str]] = {
    "integer": lambda value: f"{value:,.0f}",
    "number": _number,
    "percent": _percent,
    "ratio": _ratio,
    "nats": _number,
}


def format_cell(value: Cell, kind: str = "text") -> str:
    """One cell as text. None and NaN are empty ("undefined", never 0); an unknown `kind` reads as ``number``.

    Example:
        >>> format_cell(0.1234, "percent"), format_cell(1.5, "ratio"), format_cell(None, "nats")
        ('12.3%', '1.50×', '')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if kind == "text":
        return f"{value:,}" if isinstance(value, int) else _number(value)
    if kind in ("number", "nats") and isinstance(value, int):
        return f"{value:,}"
    return _KINDS.get(kind, _number)(float(value))


def format_tick(value: float, kind: str) -> str:
    """An axis label: as short as the value allows ("20%", "1.5×", "0.25")."""
    if kind == "percent":
        return f"{round(100 * value, 10):,.10g}%"
    text = f"{round(value, 12):,.10g}" if abs(value) < 1e6 else f"{value:.3g}"
    return f"{text}×" if kind == "ratio" else text


# units a finding may name in words; anything else is written after the number
_UNIT_KINDS = {
    "percent": "percent",
    "share": "percent",
    "ratio": "ratio",
    "x": "ratio",
    "×": "ratio",
    "integer": "integer",
}
_GLUED = frozenset({"%"})


def finding_number(finding: Finding) -> tuple[str, str]:
    """The number of a finding and its interval, as two texts; empty where there is none.

    Example:
        >>> from sftloss.document import Interval
        >>> finding_number(Finding("A", "info", "", "", value=1.3, unit="ratio", interval=Interval(1.1, 1.5)))
        ('1.30×', '95% interval 1.10× to 1.50×')
    """
    if finding.value is None or math.isnan(finding.value):
        return "", ""
    unit = clean(finding.unit).strip()
    head, _, of = unit.partition(" ")
    if head == "share" and of:  # "share of examples": 41.2% of examples
        unit = "share"
    else:
        of = ""
    kind = _UNIT_KINDS.get(unit, "number")
    suffix = "" if unit in _UNIT_KINDS or not unit else unit if unit in _GLUED else f" {unit}"
    number = format_cell(finding.value, kind) + (f" {of}" if of else suffix)
    if finding.interval is None:
        return number, ""
    low, high = (format_cell(bound, kind) or "?" for bound in (finding.interval.low, finding.interval.high))
    return number, f"{100 * finding.interval.level:g}% interval {low} to {high}"
