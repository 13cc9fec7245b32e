"""Orders and their signs: severities by word and shape (never colour alone), signal levels, shades of a token."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sftloss.document import Finding


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


def explain_level(level: str) -> str:
    """The meaning of every signal level named in `level`, for people who do not know the codes."""
    return "; ".join(f"{code}: {_LEVELS[code]}" for code in re.findall(r"S[0-4]", level))


def bucket(value: float) -> int:
    """Shade of a value in 0..1: 0 for none (or NaN), then 1 (little) to 5 (most)."""
    return 0 if not value > 0 else min(5, 1 + int(5 * min(value, 1.0) * 0.9999))
