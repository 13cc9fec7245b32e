"""Numbers, severities and levels as text, so that terminal, Markdown, HTML and charts agree."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from sftloss.document import Cell, Command, Finding
from sftloss.report.text import clean
from sftloss.words import confidence, index, number, percent

NUMERIC = frozenset({"integer", "number", "index", "percent", "ratio", "nats"})


def _percent(share: float) -> str:
    """A share in a table: one decimal, below 1 % two significant digits, so that a small share is not shown as none."""
    size = 100 * abs(share)
    if size < 1e-7:
        return "0.0 %"
    if size < 0.001:
        return "<0.001 %"
    return f"{100 * share:.1f} %" if size >= 1 else f"{100 * share:.2f} %" if size >= 0.1 else f"{100 * share:.2g} %"


def _ratio(value: float) -> str:
    if 0 < abs(value) < 5e-4:
        return "<0.001×"
    return f"{value:,.2f}×" if value == 0 or 0.095 <= abs(value) < 1e6 else f"{number(value)}×"


_KINDS: dict[str, Callable[[float], str]] = {
    "integer": lambda value: f"{value:,.0f}",
    "number": number,
    "index": index,
    "percent": _percent,
    "ratio": _ratio,
    "nats": number,
}


_TRUTH = {"en": ("no", "yes"), "zh": ("否", "是")}


def format_cell(value: Cell, kind: str = "text", language: str = "en") -> str:
    """One cell as text. None and NaN are empty ("undefined", never 0); an unknown `kind` reads as ``number``.

    Example:
        >>> format_cell(0.1234, "percent"), format_cell(1.5, "ratio"), format_cell(None, "nats")
        ('12.3 %', '1.50×', '')
    """
    if value is None:
        return ""
    if isinstance(value, str | Command):
        return clean(str(value))
    if isinstance(value, bool):
        return _TRUTH[language][value]
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if kind == "text":
        return f"{value:,}" if isinstance(value, int) else number(value)
    if kind in ("number", "nats") and isinstance(value, int):
        return f"{value:,}"
    return _KINDS.get(kind, number)(float(value))


def format_tick(value: float, kind: str) -> str:
    """An axis label: as short as the value allows ("20 %", "1.5×", "0.25")."""
    if kind == "percent":
        return f"{round(100 * value, 10):,.10g} %"
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


def _times(value: float) -> str:
    return "less than 0.001" if 0 < value < 5e-4 else number(value)


def finding_number(finding: Finding) -> tuple[str, str]:
    """The number of a finding and its interval, as two texts; empty where there is none or the sentence has it.

    Example:
        >>> from sftloss.document import Interval
        >>> finding_number(Finding("A", "info", "", "", value=1.3, unit="ratio", interval=Interval(1.1, 1.5)))
        ('1.30×', '95 % interval 1.10× to 1.50×')
    """
    if finding.value is None or math.isnan(finding.value):
        return "", ""
    unit = clean(finding.unit).strip()
    head, _, of = unit.partition(" ")
    if head == "share" and of:  # "share of examples": 41.2% of examples
        unit = "share"
    else:
        of = ""
    kind = "index" if unit == "elasticity" else _UNIT_KINDS.get(unit, "number")
    suffix = "" if unit in _UNIT_KINDS or not unit else unit if unit in _GLUED else f" {unit}"
    write = percent if kind == "percent" else _times if head == "times" else lambda value: format_cell(value, kind)
    shown = write(finding.value) + (f" {of}" if of else suffix)
    ends = () if finding.interval is None else (finding.interval.low, finding.interval.high)
    texts = tuple(write(end) if math.isfinite(end) else "?" for end in ends)
    if finding.interval is None or set(texts) == {write(finding.value)}:  # none, or narrower than what is written
        is_told = re.search(rf"(?<![\d.,]){re.escape(write(finding.value))}(?!\d)", finding.sentence)
        return "" if is_told else shown, ""
    return shown, f"{confidence(finding.interval.level)} interval {texts[0]} to {texts[1]}"


@dataclass(frozen=True)
class SeverityStyle:
    word: str
    plural: str
    shape: str  # for terminals
    ascii: str  # for terminals without Unicode
    style: str  # rich's


SEVERITIES = {
    "error": SeverityStyle("Error", "errors", "◆", "!!", "bold red"),
    "warning": SeverityStyle("Warning", "warnings", "▲", "!", "bold yellow"),
    "info": SeverityStyle("Note", "notes", "●", "-", "bold blue"),
}

_LEVELS = {
    "S0": "nominal weight: what the data and the normalization give, without a model",
    "S1": "logit gradient: how much probability the loss asks to move",
    "S2": "last-layer gradient",
    "S3": "parameter gradient",
    "S4": "additive share of the step",
}


def count_line(findings: tuple[Finding, ...]) -> str:
    """How many of each, in words ("1 error, 2 warnings")."""
    counts = {name: sum(f.severity == name for f in findings) for name in SEVERITIES}
    parts = [
        f"{n} {SEVERITIES[name].word.lower() if n == 1 else SEVERITIES[name].plural}" for name, n in counts.items() if n
    ]
    return ", ".join(parts) or "no findings"


def level_parts(level: str) -> tuple[str, str]:
    """The short name of a section's level, and what it means.

    Example:
        >>> level_parts("S0 nominal: c alone"), level_parts("S0标称：只有系数c")
        (('S0 nominal', 'c alone'), ('S0标称', '只有系数c'))
    """
    name, *meaning = re.split(r": |：", clean(level), maxsplit=1)
    return name, "".join(meaning)


def explain_level(level: str) -> str:
    """The meaning of every signal level named in `level`, for people who do not know the codes."""
    return "; ".join(f"{code}: {_LEVELS[code]}" for code in re.findall(r"S[0-4]", level))


def bucket(value: float) -> int:
    """Shade of a value in 0..1: 0 for none (or NaN), then 1 (little) to 5 (most)."""
    return 0 if not value > 0 else min(5, 1 + int(5 * min(value, 1.0) * 0.9999))
