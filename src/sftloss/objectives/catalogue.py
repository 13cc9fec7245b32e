"""What there is to choose from, read off the docstrings and signatures: one description, told once."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from sftloss.objectives.registry import OBJECTIVES

# the hyper-parameter values at which an objective is cross-entropy; the laws hold each to it
NEUTRAL: dict[str, dict[str, float]] = {
    "cross_entropy": {},
    "label_smoothing": {"epsilon": 0.0},
    "focal": {"gamma": 0.0},
    "poly_1": {"epsilon": 0.0},
}
# terms to add to a loss, not losses to train on alone, with the coefficient of their source
ADDED: dict[str, float] = {"z_loss": 1e-4, "entropy_bonus": 0.1}
_SYMBOLS = {
    "alpha": "α",
    "beta": "β",
    "delta": "δ",
    "ell": "ℓ",
    "gamma": "γ",
    "ge": "≥",
    "log": "log ",
    "partial": "∂",
    "pi": "π",
    "qquad": "    where ",
    "sum": "Σ",
    "theta": "θ",
    "varepsilon": "ε",
    ",": " ",
}


@dataclass(frozen=True)
class HyperParameter:
    """A keyword of an objective.

    Attributes:
        name: As in the signature and in an expression.
        default: Its default.
        meaning: Unit, range and meaning, in plain words.
    """

    name: str
    default: float | str | bool
    meaning: str


@dataclass(frozen=True)
class Description:
    """All that a reader choosing an objective wants to know.

    Attributes:
        name: Key of ``OBJECTIVES``.
        summary: One sentence.
        formula: One line of plain text, Greek and all.
        hyper_parameters: Keywords with their defaults; empty if there are none.
        neutral: Where it is cross-entropy, as an expression; ``None`` if nowhere.
        usage: An expression to start from.
        gradient: What it does to cross-entropy's gradient.
        source: Paper and equation.
    """

    name: str
    summary: str
    formula: str
    hyper_parameters: tuple[HyperParameter, ...]
    neutral: str | None
    usage: str
    gradient: str
    source: str


def describe() -> tuple[Description, ...]:
    """Every objective of ``OBJECTIVES``, described, in that order.

    Returns:
        One :class:`Description` each.

    Example:
        >>> [each.usage for each in describe()][-2:]
        ['cross_entropy + 0.0001 * z_loss', 'cross_entropy + 0.1 * entropy_bonus']
        >>> describe()[2].neutral
        'focal(gamma=0)'
    """
    return tuple(_describe(name) for name in OBJECTIVES)


def _describe(name: str) -> Description:
    function = OBJECTIVES[name]
    text = inspect.cleandoc(function.__doc__ or "")
    sections = _sections(text)
    meanings = _arguments(sections.get("Args", ""))
    parameters = [each for each in inspect.signature(function).parameters.values() if each.kind is each.KEYWORD_ONLY]
    formula = re.search(r"^\.\. math:: (.+)$", text, re.MULTILINE)  # a block of its own, so without backquotes
    return Description(
        name=name,
        summary=text.partition("\n")[0],
        formula=_unicode(formula.group(1)) if formula else "",
        hyper_parameters=tuple(HyperParameter(each.name, each.default, meanings[each.name]) for each in parameters),
        neutral=_neutral(name),
        usage=f"cross_entropy + {ADDED[name]} * {name}" if name in ADDED else _call(name, parameters),
        gradient=_plain(sections["Gradient"]),
        source=_plain(sections["Source"]),
    )


def _neutral(name: str) -> str | None:
    if name in ADDED:
        return f"cross_entropy + 0 * {name}"
    if name not in NEUTRAL:
        return None
    inside = ", ".join(f"{key}={value:g}" for key, value in NEUTRAL[name].items())
    return f"{name}({inside})" if inside else name


def _call(name: str, parameters: list[inspect.Parameter]) -> str:
    """The objective with its first hyper-parameter, the one that has the literature's name for it."""
    if not parameters:
        return name
    first = parameters[0]
    return f"{name}({first.name}={first.default:g})"


def _sections(text: str) -> dict[str, str]:
    """Google-style sections by title: a capitalised word and a colon alone on a line, then an indented block."""
    found = re.findall(r"^([A-Z]\w+):\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
    return {title: inspect.cleandoc(block) for title, block in found}


def _arguments(block: str) -> dict[str, str]:
    found = re.findall(r"^(\w+): (.*(?:\n .*)*)", block, re.MULTILINE)
    return {name: _plain(meaning) for name, meaning in found}


def _plain(block: str) -> str:
    """One line, without the markup a terminal cannot show."""
    text = re.sub(r":math:`([^`]*)`", lambda math: _unicode(math.group(1)), " ".join(block.split()))
    text = re.sub(r"\*([^*]+)\*", r"\1", text)
    return text.replace("``", "").replace("`", "")


def _unicode(latex: str) -> str:
    """The little LaTeX our docstrings use, as text; a test holds that no command is left over."""
    text = re.sub(r"\\(?:text|operatorname)\{(\w+)\}", r"\1", latex)
    text = re.sub(r"\\frac\{(.+?)\}\{(.+?)\}", r"\1/\2", text)
    text = re.sub(r"\\([a-zA-Z]+|[,;])", lambda command: _SYMBOLS.get(command.group(1), command.group()), text)
    text = re.sub(r"([_^])\{(\w+|-?\d+)\}", r"\1\2", text).replace("{", "(").replace("}", ")")
    return " ".join(text.split()).replace("∂ ", "∂").replace("log ^", "log^")
