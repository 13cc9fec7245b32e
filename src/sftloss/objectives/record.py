"""The record of an objective, and the objectives that exist, by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from sftloss.registry import record_of
from sftloss.statistics import Objective as Objective

OBJECTIVES: dict[str, Callable[..., Tensor]] = {}
"""Every objective of this room by name: ``cross_entropy`` first, losses before terms. Filled by the room's import."""


class PublishedLoss(NamedTuple):
    """A published loss that is an objective of this room at certain hyper-parameters, or a sum of them.

    Attributes:
        paper: Its arXiv id, ``"1712.09482"``.
        name: What its paper calls it.
        expression: What to write; its gradient is that of the paper.
    """

    paper: str
    name: str
    expression: str


MAKERS: Mapping[str, str] = {
    "context": "sftloss train makes them of the 32 tokens before.",
    "marks": "sftloss train makes it of the data: answers, and tokens of rows of token ids, that have "
    "is_negative: true are marked.",
    "abstention": "sftloss train makes them of the tokenizer.",
    "numbers": "sftloss train makes them of the tokenizer and the rows.",
}
"""The ways to make batch tensors by name, each with its sentence in an objective's description."""

SHARE_OF_A_BATCH = (
    "a share of a batch depends on how the step is cut into micro-batches and ranks; choose threshold from the "
    "quantiles of the data instead"
)
"""Why the share of tokens that a paper keeps is refused."""


@dataclass(frozen=True)
class ObjectiveRecord:
    """What an objective's file states beside its docstring: how expressions write it.

    ``@attach_record(ObjectiveRecord(...))`` above a function in a file of this room puts it into ``OBJECTIVES`` under
    its own name. Its first parameter is the :class:`TokenStats`, the others are keyword-only hyper-parameters.

    Attributes:
        examples: Expressions that use it, the usual one first. Every law is tested on each of them.
        neutral: The expression at which it equals cross-entropy; None if there is none.
        is_term: Whether it is a term to add to a loss, and no loss to train on alone.
        is_detached: Whether a factor is held fixed (a stop-gradient), so that the gradient is not the derivative of
            the value.
        extras: Names of the batch tensors it reads as ``stats.extras``, one number a token or several.
        sequence_values: Values of :func:`sftloss.weights.sequence_values` that it reads as ``stats.extras`` too. They
            are computed from the model in training and ``reference_logprob``, before the loss.
        made: How ``sftloss train`` makes these batch tensors of the rows, one of ``MAKERS``; empty where it cannot.
        of_logits: Takes the hyper-parameters and returns the losses of ``(logits, targets)`` that it reads as
            ``stats.extras``, by name; ``weighted_loss`` computes them by :func:`sftloss.map_logits`. Mostly none.
        refused: Hyper-parameters of the paper that are not computed, each with the reason and what to write instead.
        published: Other published losses that are this objective at certain hyper-parameters.
    """

    examples: tuple[str, ...]
    neutral: str | None = None
    is_term: bool = False
    is_detached: bool = False
    extras: tuple[str, ...] = ()
    sequence_values: tuple[str, ...] = ()
    made: str = ""
    of_logits: Callable[..., Mapping[str, Callable[..., Tensor]]] = lambda **hyper_parameters: {}
    refused: Mapping[str, str] = field(default_factory=dict)
    published: tuple[PublishedLoss, ...] = ()


def objective_record(name: str, function: Callable[..., Tensor]) -> ObjectiveRecord:
    """Return the record of an objective; one that has none is written by its name alone."""
    record = record_of(function)
    return record if isinstance(record, ObjectiveRecord) else ObjectiveRecord((name,))


_STORED = re.compile(r"(reference|old)_(logprob|entropy|candidate_logprob)")


def are_stored(extras: Sequence[str]) -> bool:
    """Whether ``sftloss reference`` stores all the batch tensors of an objective.

    Candidate ids by themselves are the user's own; beside log-probabilities of them they are a model's likeliest ids.
    """
    of_a_model = any(name.endswith("_candidate_logprob") for name in extras)
    return all(
        _STORED.fullmatch(name) or (name in ("candidate_ids", "candidate_is_target") and of_a_model) for name in extras
    )


def in_listing_order(functions: dict[str, Callable[..., Tensor]]) -> dict[str, Callable[..., Tensor]]:
    """Return objectives in the order of lists and pages: cross-entropy, the other losses, then terms to add."""
    return dict(
        sorted(
            functions.items(),
            key=lambda item: (objective_record(*item).is_term, item[0] != "cross_entropy", item[0]),
        )
    )


def hyper_parameters(function: Callable[..., Tensor]) -> dict[str, object]:
    """Return name and default of each hyper-parameter: every parameter but the statistics, which come first."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind in named}
