"""Descriptions of objectives, read from their docstrings, signatures and records."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from sftloss.docstrings import docstring_of, plain, plain_formula
from sftloss.objectives.record import OBJECTIVES, hyper_parameters, objective_record


@dataclass(frozen=True)
class HyperParameter:
    """A keyword of an objective.

    Attributes:
        name: As in the signature and in an expression.
        default: Its default; ``inspect.Parameter.empty`` if it has to be given.
        meaning: Unit, range and meaning, in plain words.
    """

    name: str
    default: object
    meaning: str


@dataclass(frozen=True)
class Description:
    """What a reader needs to choose an objective, as plain text of one line each.

    Attributes:
        name: How an expression writes it.
        summary: One sentence.
        formula: In Unicode.
        hyper_parameters: Keywords with their defaults.
        neutral: The expression at which it equals cross-entropy; None if there is none.
        examples: Expressions to start from, the usual one first.
        is_term: Whether it is a term to add to a loss.
        gradient: How its gradient differs from cross-entropy's.
        helps: Where there is evidence for it.
        harms: What it costs, and where.
        source: Paper and equation.
    """

    name: str
    summary: str
    formula: str
    hyper_parameters: tuple[HyperParameter, ...]
    neutral: str | None
    examples: tuple[str, ...]
    is_term: bool
    gradient: str
    helps: str
    harms: str
    source: str

    @property
    def signature(self) -> str:
        """The name with its hyper-parameters and their defaults: ``focal(gamma=2, alpha=1)``."""
        words = []
        for each in self.hyper_parameters:
            default = f"{each.default:g}" if isinstance(each.default, float) else repr(each.default)
            words.append(each.name if each.default is inspect.Parameter.empty else f"{each.name}={default}")
        return f"{self.name}({', '.join(words)})" if words else self.name


def description(name: str, function: Callable[..., Tensor]) -> Description:
    """Describe one objective; parts that its docstring lacks are empty.

    Example:
        >>> from sftloss.objectives import focal
        >>> description("focal", focal).neutral
        'focal(gamma=0)'
    """
    docstring, record = docstring_of(function), objective_record(name, function)
    parameters = hyper_parameters(function).items()
    meanings = docstring.arguments
    section = {title: plain(docstring.sections.get(title, "")) for title in ("Gradient", "Helps", "Harms", "Source")}
    return Description(
        name=name,
        summary=plain(docstring.summary),
        formula=plain_formula(docstring.formula),
        hyper_parameters=tuple(HyperParameter(key, value, plain(meanings.get(key, ""))) for key, value in parameters),
        neutral=f"cross_entropy + 0 * {name}" if record.is_term else record.neutral,
        examples=record.examples,
        is_term=record.is_term,
        gradient=section["Gradient"],
        helps=section["Helps"],
        harms=section["Harms"],
        source=section["Source"],
    )


def descriptions(functions: Mapping[str, Callable[..., Tensor]] = OBJECTIVES) -> tuple[Description, ...]:
    """Describe every objective, in the order of ``OBJECTIVES``.

    Example:
        >>> [entry.examples[0] for entry in descriptions() if entry.is_term]
        ['cross_entropy + 0.1 * entropy_bonus', 'cross_entropy + 1e-4 * z_loss']
    """
    return tuple(description(name, function) for name, function in functions.items())
