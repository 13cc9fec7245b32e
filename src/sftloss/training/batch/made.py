"""Batch tensors that follow from the rows and the tokenizer: candidates, marks of wrong tokens, numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sftloss.data import Batch, Example, with_columns
from sftloss.errors import ConfigError
from sftloss.objectives import ObjectiveSum, Term, context_candidates, objective_function
from sftloss.objectives.record import ObjectiveRecord, objective_record
from sftloss.statistics import IGNORED, Objective

_NUMBER = re.compile(r"\d+(\.\d+)?")
_MOST_NUMBERS = 1200  # tokens of up to three digits; every trained token holds one log-probability of each
Columns = Callable[[Example], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Made:
    """What makes the tensors of a loss from each row.

    Attributes:
        names: The extras that are made.
        columns: Functions from a row to its tensors, laid out as its labels are.
        has_marks: Whether negative weights are marks: the tokens count with the size of their weight.
    """

    names: tuple[str, ...] = ()
    columns: tuple[Columns, ...] = field(default=(), repr=False)
    has_marks: bool = False

    def lay(self, batch: Batch) -> Batch:
        """The batch with the tensors among its extras, aligned with its targets."""
        if self.has_marks:
            batch = replace(batch, weights=batch.weights.abs())
        rows = [{k: v for make in self.columns for k, v in make(example).items()} for example in batch.examples]
        return with_columns(batch, rows)


def made_of(objective: Objective, tokenizer: Any) -> Made:
    """What makes the batch tensors of an objective; nothing where it reads none, or stored ones.

    Raises:
        ConfigError: If two of its terms need different candidates, or the tokenizer lacks what a term needs.
    """
    records = _terms(objective)
    making = [(term, record) for term, record in records if record.made]
    for term, record in making:
        others = {name for other, its in records if _reads(other) != _reads(term) for name in its.extras}
        if shared := sorted(others & set(record.extras)):
            problem = f"two terms of {objective} need different {shared[0]}, and a batch has one"
            raise ConfigError(problem, option="loss", cure="leave one out")
    names = tuple(dict.fromkeys(name for _, record in making for name in record.extras))
    columns = tuple(_MAKERS[record.made](term, tokenizer) for term, record in making)
    return Made(names, columns, has_marks="is_negative" in names)


def losses_without(objective: Objective, extra: str) -> tuple[str, ...]:
    """The names of the losses in a sum that do not read this tensor of the batch; terms to add are no losses."""
    records = _terms(objective)
    return tuple(term.name for term, record in records if not record.is_term and extra not in record.extras)


def _terms(objective: Objective) -> list[tuple[Term, ObjectiveRecord]]:
    """The terms of an objective, each with the record of its function; none where it is a function of its own."""
    terms = objective.terms if isinstance(objective, ObjectiveSum) else ()
    return [(term, objective_record("", objective_function(term.name))) for term in terms]


def _reads(term: Term) -> tuple[str, str]:
    """What makers read of a term: its name, and the name of the token that abstains."""
    return term.name, str(dict(term.hyper_parameters).get("token", "IDK"))


def _context(term: Term, tokenizer: Any) -> Columns:
    def columns(example: Example) -> Mapping[str, Tensor]:
        labels = torch.where(example.weights != 0, example.input_ids, IGNORED)
        return {"candidate_ids": context_candidates(example.input_ids[None], labels[None])[0]}

    return columns


def _marks(term: Term, tokenizer: Any) -> Columns:
    return lambda example: {"is_negative": (example.weights < 0).float()}


def _abstaining(term: Term, tokenizer: Any) -> Columns:
    _, wanted = _reads(term)
    vocabulary, added = tokenizer.get_vocab(), tokenizer.get_added_vocab()
    matches = filter(None, map(re.compile(rf"(\W*){re.escape(wanted)}(\W*)").fullmatch, vocabulary))
    # an added token first, then one in brackets, then the shortest, so that "IDK" is before "▁IDK"
    order = sorted((m[0] not in added, not (m[1] and m[2]), len(m[0]), vocabulary[m[0]]) for m in matches)
    if not order:
        raise ConfigError(
            f"the tokenizer has no token {wanted!r}, in brackets or without, that could stand for not knowing",
            option="loss",
            cure="add one to tokenizer and model, or name one that the data do not hold: idk(token='NAME')",
        )
    *_, abstaining = order[0]
    return lambda example: {"candidate_ids": torch.full((len(example.input_ids), 1), abstaining)}


def _numbers(term: Term, tokenizer: Any) -> Columns:
    texts = ((i, tokenizer.convert_tokens_to_string([text]).strip()) for text, i in tokenizer.get_vocab().items())
    by_id = dict(sorted((i, float(text)) for i, text in texts if _NUMBER.fullmatch(text) and text.isascii()))
    if not 2 <= len(by_id) <= _MOST_NUMBERS:
        problem = f"the tokenizer has {len(by_id):,} number tokens; 2 to {_MOST_NUMBERS:,} can be compared"
        raise ConfigError(problem, option="loss", cure="train without number_token")
    ids, values = torch.tensor(list(by_id)), torch.tensor(list(by_id.values()))

    def columns(example: Example) -> Mapping[str, Tensor]:
        tokens = len(example.input_ids)
        own = torch.tensor([by_id.get(i, float("nan")) for i in example.input_ids.tolist()])
        return {
            "candidate_ids": ids.expand(tokens, -1),
            "candidate_value": values.expand(tokens, -1),
            "target_value": own,
        }

    return columns


_MAKERS: Mapping[str, Callable[[Term, Any], Columns]] = {
    "context": _context,
    "marks": _marks,
    "abstention": _abstaining,
    "numbers": _numbers,
}
