"""From rows to the columns that forecasts of output length are made of: each answer counts by itself.

`lengths_of` reads examples, as training sees them. `LengthColumns` takes any rows one by one, so that text can be
counted without a tokenizer and millions of rows fit into memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sftloss.analysis.lengths.tilt import Lengths
from sftloss.data import Example, answer_spans


class AnswerLength(NamedTuple):
    """One answer.

    Attributes:
        output: Its trained length.
        prompt: A hash of what comes before it; -1 for nothing.
        is_cut: Whether it was cut off.
    """

    output: float
    prompt: int
    is_cut: bool = False


class RowLengths(NamedTuple):
    """One row.

    Attributes:
        size: T, what a normalization by length divides by.
        answers: Its answers, trained or not.
        other: Trained length of other roles than the answer.
        task: Its task, None where the data has none.
        weight: Of the whole row, which T leaves out; > 0 where the row is trained.
    """

    size: float
    answers: tuple[AnswerLength, ...]
    other: float = 0.0
    task: str | None = None
    weight: float = 1.0


@dataclass
class LengthColumns:
    """Columns of numbers, eight bytes a cell: of each row, and of each answer."""

    size: array[float] = field(default_factory=lambda: array("d"))
    weights: array[float] = field(default_factory=lambda: array("d"))
    other: array[float] = field(default_factory=lambda: array("d"))
    tasks: array[int] = field(default_factory=lambda: array("q"))
    owners: array[int] = field(default_factory=lambda: array("q"))
    output: array[float] = field(default_factory=lambda: array("d"))
    prompts: array[int] = field(default_factory=lambda: array("q"))
    cut: array[int] = field(default_factory=lambda: array("b"))
    names: dict[str | None, int] = field(default_factory=dict)

    def add(self, row: RowLengths) -> None:
        """Append one row; a row that trains nothing is a row too."""
        for answer in row.answers or (AnswerLength(0.0, -1),):
            self.owners.append(len(self.size))
            self.output.append(answer.output)
            self.prompts.append(answer.prompt)
            self.cut.append(answer.is_cut)
        self.size.append(row.size)
        self.weights.append(row.weight)
        self.other.append(row.other)
        self.tasks.append(self.names.setdefault(row.task, len(self.names)))

    def lengths(self) -> Lengths:
        """The columns as arrays. Where no answer is trained, what is trained stands for it, without a prompt."""
        size, tasks, names = np.asarray(self.size), np.asarray(self.tasks), tuple(self.names)
        weights = np.asarray(self.weights)
        if not any(self.output):
            rows, other = np.arange(len(size)), np.asarray(self.other)
            return Lengths(rows, size, other, None, tasks, task_names=names, row_weights=weights)
        at = np.asarray(self.owners)
        columns = (np.asarray(self.output), np.asarray(self.prompts), tasks[at], np.asarray(self.cut, dtype=bool))
        return Lengths(at, size[at], *columns, task_names=names, row_weights=weights[at])


def row_lengths(example: Example, size: float | None = None) -> RowLengths:
    """The lengths of one example, in tokens; `size` is T where training gives tokens other weights than the data."""
    trained, last = example.weights > 0, len(example.weights)
    answers = []
    for (start, stop), prompt in zip(answer_spans(example), example.prompts, strict=True):
        is_cut = example.truncated > 0 and stop == last and not bool(example.is_end[stop - 1])
        answers.append(AnswerLength(float(trained[start:stop].sum()), prompt or -1, is_cut))
    other = float(trained.sum()) - sum(answer.output for answer in answers)
    size = float(example.weights.sum()) / example.row_weight if size is None else size
    return RowLengths(size, tuple(answers), other, example.task, example.row_weight)


def lengths_of(examples: Iterable[Example], sizes: Iterable[float] | None = None) -> Lengths:
    """The length of every answer of these examples, in trained tokens.

    Args:
        examples: Rows as tokens, as :func:`sftloss.data.encode` makes them.
        sizes: T of each example; None takes the sum of its data-side weights without the weight of the whole row. Give
            it where training weighs tokens differently, for example by role.

    Example:
        >>> import torch
        >>> from sftloss.data import Origin
        >>> roles = torch.tensor([0, 1, 1, 0, 1], dtype=torch.int8)
        >>> ends = torch.tensor([False, False, True, False, True])
        >>> one = Example(torch.arange(5), roles, roles.float(), ends, Origin("rows", 0), prompts=(7, 8))
        >>> lengths_of([one]).output, lengths_of([one]).size
        (array([2., 1.]), array([3., 3.]))
    """
    columns = LengthColumns()
    if sizes is None:
        for example in examples:
            columns.add(row_lengths(example))
    else:
        for example, size in zip(examples, sizes, strict=True):
            columns.add(row_lengths(example, float(size)))
    return columns.lengths()
