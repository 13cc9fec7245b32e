"""Docstrings as data: for lists on the command line, and for the parts of documentation pages made from them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SYMBOLS = {
    "alpha": "α",
    "beta": "β",
    "delta": "δ",
    "ell": "ℓ",
    "gamma": "γ",
    "ge": "≥",
    "lambda": "λ",
    "le": "≤",
    "log": "log ",
    "max": "max",
    "min": "min",
    "mu": "μ",
    "partial": "∂",
    "phi": "φ",
    "pi": "π",
    "qquad": "    where ",
    "sum": "Σ",
    "tau": "τ",
    "theta": "θ",
    "varepsilon": "ε",
    ",": " ",
}


@dataclass(frozen=True)
class Docstring:
    """The parts of a Google-style docstring, without the indentation.

    Attributes:
        summary: The first line.
        formula: LaTeX of the first ``math`` block, on one line; empty if there is none.
        body: The paragraphs between the summary and the sections, without that formula.
        sections: Text of each section by title, as ``"Source"``.
    """

    summary: str
    formula: str
    body: str
    sections: Mapping[str, str]

    @property
    def arguments(self) -> dict[str, str]:
        """Meaning of each argument, on one line."""
        entries = re.findall(r"^(\w+): (.*(?:\n .*)*)", self.sections.get("Args", ""), re.MULTILINE)
        return {name: " ".join(meaning.split()) for name, meaning in entries}


def docstring_of(function: Callable[..., Any]) -> Docstring:
    """Return the docstring of a function as data; parts that it lacks are empty."""
    text = inspect.getdoc(function) or ""
    head, *rest = re.split(r"^([A-Z]\w+):\n", text, flags=re.MULTILINE)
    sections = {title: inspect.cleandoc("\n" + block) for title, block in zip(rest[::2], rest[1::2], strict=True)}
    summary, _, body = head.partition("\n\n")
    formula = re.search(r"^\.\. math::((?: .*)?(?:\n\n? +.*)*)\n?", body, re.MULTILINE)
    if formula is None:
        return Docstring(" ".join(summary.split()), "", body.strip(), sections)
    body = body[: formula.start()] + body[formula.end() :]
    return Docstring(" ".join(summary.split()), " ".join(formula[1].split()), body.strip(), sections)


def plain_text(text: str) -> str:
    """Return text on one line, without the markup that a terminal cannot show."""
    text = re.sub(r":math:`([^`]*)`", lambda math: plain_formula(math[1]), " ".join(text.split()))
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    text = re.sub(r"\*([^*]+)\*", r"\1", text)
    return text.replace("``", "").replace("`", "")


def plain_formula(latex: str) -> str:
    """Return the LaTeX of our docstrings as one line of Unicode; a test checks that no command is left over."""
    text = re.sub(r"\\(?:text|operatorname)\{(\w+)\}", r"\1", latex)
    while (start := text.find(r"\frac{")) >= 0:
        top, after = _braced(text, start + len(r"\frac"))
        bottom, end = _braced(text, after)
        fraction, before, behind = f"{_grouped(top)} / {_grouped(bottom)}", text[:start], text[end:]
        is_factor = before.rstrip().endswith(r"\log") or behind.lstrip()[:1] not in ("", *",)}+-=")
        text = f"{before}({fraction}){behind}" if is_factor else f"{before}{fraction}{behind}"
    text = re.sub(r"\\([a-zA-Z]+|[,;])", lambda command: _SYMBOLS.get(command[1], command[0]), text)
    text = re.sub(r"([_^])\{(\w+|-?\d+)\}", r"\1\2", text).replace("{", "(").replace("}", ")")
    text = " ".join(text.split()).replace("∂ ", "∂").replace("log ^", "log^")
    first, *rest = text.split(", where ")
    return ", ".join([first, f"where {rest[0]}", *rest[1:]]) if rest else first


def _braced(text: str, start: int) -> tuple[str, int]:
    """Return what stands in the braces that open at `start`, and the place behind them."""
    depth, end = 0, start
    while True:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
        if depth == 0:
            return text[start + 1 : end - 1], end


def _grouped(part: str) -> str:
    """Return a part of a fraction, in parentheses where it is a sum or a product."""
    is_one = re.fullmatch(r"[^\s+-]+|\\[a-z]+ ?\S*", part.strip()) is not None
    return part.strip() if is_one else f"({part.strip()})"


def markdown(text: str) -> str:
    """Return text as Markdown: formulas between dollars, code between single backquotes; paragraphs are kept."""
    text = re.sub(r":math:`([^`]*)`", lambda math: f"${' '.join(math[1].split())}$", text)
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    return text.replace("``", "`")


def replace_region(page: str, name: str, text: str) -> str:
    """Return a Markdown page with new text between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.

    Raises:
        ValueError: If the page does not have the two marks exactly once.
    """
    pattern = re.compile(rf"(<!-- begin {name}\b.*? -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise ValueError(f"the page has no region {name!r}, or has it twice.")
    return pattern.sub(lambda match: f"{match[1]}\n{text.strip()}\n\n{match[2]}", page)


def write_regions(path: Path, regions: Mapping[str, str]) -> None:
    """Rewrite the generated regions of a documentation page."""
    page = path.read_text(encoding="utf-8")
    for name, text in regions.items():
        page = replace_region(page, name, text)
    path.write_text(page, encoding="utf-8")
