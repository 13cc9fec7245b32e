"""Descriptions of objectives, read from their docstrings, signatures and records."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from sftloss.docstrings import Docstring, docstring_of, plain_formula, plain_text
from sftloss.objectives.gate import gate_line
from sftloss.objectives.record import (
    MAKERS,
    OBJECTIVES,
    ObjectiveRecord,
    PublishedLoss,
    are_stored,
    hyper_parameters,
    objective_record,
)
from sftloss.statistics import FIELDS
from sftloss.statistics.tokens import FURTHER


@dataclass(frozen=True)
class Description:
    """What a reader needs to choose an objective.

    Attributes:
        name: How an expression writes it.
        docstring: Its parts as written; those that are missing are empty.
        record: Examples, and whether it is a term to add.
        hyper_parameters: Name and default of each; ``inspect.Parameter.empty`` where a value has to be given.
        gate: Its gate at the defaults as a line of bars; None where the target's probability alone determines none.
    """

    name: str
    docstring: Docstring
    record: ObjectiveRecord
    hyper_parameters: Mapping[str, object]
    gate: str | None = None

    @property
    def signature(self) -> str:
        """The name with its hyper-parameters and their defaults: ``focal(gamma=2, alpha=1)``."""
        words = []
        for name, default in self.hyper_parameters.items():
            text = f"{default:g}" if isinstance(default, float) else repr(default)
            words.append(name if default is inspect.Parameter.empty else f"{name}={text}")
        return f"{self.name}({', '.join(words)})" if words else self.name

    @property
    def neutral(self) -> str | None:
        """The expression at which it equals cross-entropy; None if there is none."""
        return f"cross_entropy + 0 * {self.name}" if self.record.is_term else self.record.neutral

    @property
    def reads(self) -> tuple[str, ...]:
        """The token statistics it reads, as its docstring names them."""
        return tuple(name for name in (*FIELDS, *FURTHER) if f"``{name}``" in self.docstring.sections.get("Args", ""))

    @property
    def cost(self) -> str:
        """Its time in one pass over cross-entropy's, by the statistics it reads, as ``benchmarks.objectives`` finds."""
        more = max((COSTS.get(name, 0) for name in self.reads), default=0)
        return f"about {more} % more time than cross-entropy" if more else "no more time than cross-entropy"

    def text(self) -> dict[str, str]:
        """Return each part as plain text on one line, by title: summary, formula, hyper-parameters, sections."""
        meanings = self.docstring.arguments
        sections = {title: self.docstring.sections.get(title.capitalize(), "") for title in _SECTIONS}
        return {
            "summary": plain_text(self.docstring.summary),
            "formula": plain_formula(self.docstring.formula),
            **({"note": plain_text(self.docstring.body)} if self.docstring.body else {}),
            **{name: plain_text(meanings.get(name, "")) for name in self.hyper_parameters},
            **({"gate from p = 0 to 1": self.gate} if self.gate else {}),
            **({"reads": ", ".join(self.reads), "costs": self.cost} if self.reads else {}),
            **({"reads from each batch": _on_batches(self.record)} if self.record.extras else {}),
            **({"reads from each sequence": _on_sequences(self.record)} if self.record.sequence_values else {}),
            **{title: plain_text(text) for title, text in sections.items()},
        }


def published_losses(entries: Sequence[Description]) -> Iterator[PublishedLoss]:
    """Yield the loss of each objective's paper, and each loss that is an objective under another name."""
    for entry in entries:
        source = " ".join(entry.docstring.sections.get("Source", "").split())
        paper, title = re.search(r"arXiv:(\d{4}\.\d{5})", source), re.search(r"\*(.+?)\*", source)
        if paper and title:
            yield PublishedLoss(paper[1], title[1], entry.record.examples[0])
        yield from entry.record.published


def _on_batches(record: ObjectiveRecord) -> str:
    """Return which tensors a batch has to hold, in one sentence, and what makes them."""
    source = MAKERS.get(record.made, "Train in Python, where you make the batches.")
    source = "Make them with sftloss reference." if are_stored(record.extras) else source
    return f"{', '.join(record.extras)}, laid out as the labels are. {source}"


def _on_sequences(record: ObjectiveRecord) -> str:
    """Return what is computed of whole sequences, in two sentences."""
    names = ", ".join(record.sequence_values)
    return f"{names}, which training computes before the loss. That costs one product more with the head, beside three."


COSTS = {
    "entropy": 7,
    "collision": 8,
    "mean_logprob": 1,
    "off_target_sq": 8,
    "top_mass": 15,
    "top_entropy": 15,
    "tempered_logprob": 8,
    "rank": 13,
    "candidate_logprob": 1,
}
"""Per cent that reading a statistic adds to the time of cross-entropy: CPU, one pass, 768 wide, 50257 ids."""

_SECTIONS = ("gradient", "helps", "harms", "source")


def description(name: str, function: Callable[..., Tensor]) -> Description:
    """Describe one objective.

    Example:
        >>> from sftloss.objectives import focal
        >>> description("focal", focal).neutral
        'focal(gamma=0)'
    """
    words, numbers = objective_record(name, function), hyper_parameters(function)
    line = None if words.extras or inspect.Parameter.empty in numbers.values() else gate_line(function)
    return Description(name, docstring_of(function), words, numbers, line)


def descriptions() -> tuple[Description, ...]:
    """Describe every objective, in the order of ``OBJECTIVES``.

    Example:
        >>> [entry.name for entry in descriptions() if entry.record.is_term]
        ['entropy_bonus', 'k2_anchor', 'k3_anchor', 'kl_anchor', 'z_loss']
    """
    return tuple(description(name, function) for name, function in OBJECTIVES.items())
