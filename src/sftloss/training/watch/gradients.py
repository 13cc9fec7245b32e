"""Gradient norms of a training's examples every few steps, for the log, and the rows whose norm is an outlier."""

from __future__ import annotations

import logging
import statistics
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sftloss.decoder.head import without_dropout
from sftloss.errors import ModelError
from sftloss.ranks import gather_over_ranks
from sftloss.roles import ROLES
from sftloss.training.attachment import Attachment
from sftloss.training.batch.tokens import read_tokens
from sftloss.training.gradients.norms import Question
from sftloss.training.gradients.per_example import per_example_gradients, question_of
from sftloss.training.watch.rows import name_of

_LOG = logging.getLogger("sftloss.training")
_FAR = 10.0  # times the usual size of a gradient
_LEAST, _MOST = 32, 1024  # examples, before which none is an outlier, and after which the oldest are forgotten
_SHOWN = 3


@dataclass
class GradientWatch:
    """Norms of one micro-batch's examples every `every` steps; nothing of the training changes.

    An example's size is its norm over the root of the sum of its squared coefficients: then neither its length nor the
    normalization decides what an outlier is.

    Attributes:
        every: Optimizer steps between two looks. A look costs about one micro-batch's forward and backward pass, and
            125 keeps that below 1 % of the time.
    """

    every: int = 125
    _sizes: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST))
    _sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    _largest: float = 0.0
    _outliers: list[str] = field(default_factory=list)
    _last: int = -1
    _is_off: bool = False
    _has_warned: bool = False

    def look(self, attachment: Attachment, batch: Mapping[str, Any], step: int) -> None:
        """Measure this micro-batch, if `step` is one of those and has not been measured."""
        if self._is_off or step % self.every or step == self._last:
            return
        self._last = step
        try:
            with without_dropout(attachment.model):  # which would draw numbers that the training would then not draw
                gradients = per_example_gradients(attachment.model, batch)
        except (ModelError, LookupError, RuntimeError, TypeError, ValueError) as error:  # it never ends a training
            self._is_off = True
            _LOG.warning("sftloss: gradients are not watched any more: %s", error)
            return
        if gradients.coverage.reason and not self._has_warned:
            self._has_warned = True
            _LOG.warning("sftloss: watching gradients covers %s.", gradients.coverage)
        question = question_of(attachment, batch, attachment.loss)
        norms = gradients.norms.tolist()
        trained = question.layout.sum((question.coefficients != 0).double()).tolist()
        for name, value in _named(attachment, question, norms, trained):
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)
        self._largest = max([self._largest, *norms])
        roots = question.layout.sum(question.coefficients.square()).sqrt().tolist()
        self._find_outliers(norms, roots, question, batch.get("row_ids"))

    def take(self) -> dict[str, Any]:
        """Means since the last call, over all ranks; every rank calls.

        Returns:
            ``gradient_norm`` and ``gradient_norm_max``, ``gradient_norm/task_NAME``, ``gradient_norm/length_L`` of
            examples of L to 2L - 1 trained tokens, ``gradient_norm/role_NAME``, and the names in
            ``gradient_outliers``; nothing where there was no look.
        """
        parts = gather_over_ranks((self._sums, self._largest, self._outliers))
        self._sums, self._largest, self._outliers = {}, 0.0, []
        sums: dict[str, tuple[float, int]] = {}
        for mine, _, _ in parts:
            for name, (total, count) in mine.items():
                before = sums.get(name, (0.0, 0))
                sums[name] = (before[0] + total, before[1] + count)
        if not sums:
            return {}
        metrics: dict[str, Any] = {name: total / count for name, (total, count) in sorted(sums.items())}
        metrics["gradient_norm_max"] = max(largest for _, largest, _ in parts)
        outliers = [name for _, _, names in parts for name in names]
        return metrics | ({"gradient_outliers": ", ".join(outliers)} if outliers else {})

    def _find_outliers(self, norms: list[float], roots: list[float], question: Question, row_ids: Any) -> None:
        usual = statistics.median(self._sizes) if len(self._sizes) >= _LEAST else float("inf")
        rows = question.layout.rows.tolist()
        outliers: list[tuple[float, str]] = []
        for example, (norm, root) in enumerate(zip(norms, roots, strict=True)):
            if root == 0:
                continue
            size = norm / root
            if usual > 0 and size > _FAR * usual:
                name = name_of((rows[example], example - rows.index(rows[example])), row_ids)
                outliers.append((size / usual, f"{name} ({size / usual:.3g} times the usual)"))
            self._sizes.append(size)
        names = [name for _, name in sorted(outliers, reverse=True)[:_SHOWN]]
        if names:
            self._outliers += names
            _LOG.warning("sftloss: the gradient is unusually large at step %d for %s.", self._last, ", ".join(names))


def _named(
    attachment: Attachment, question: Question, norms: list[float], trained: list[float]
) -> Iterator[tuple[str, float]]:
    """The groups that each trained example belongs to, with its norm; roles share it by their coefficients."""
    tokens, layout = read_tokens(question.loss, question.batch), question.layout
    coefficients = question.coefficients.abs()
    tasks, names = tokens.tasks, attachment.loss.task_factor.names
    whole = layout.sum(coefficients).tolist()
    roles: dict[str, list[float]] = {}
    if tokens.roles is not None:
        of_tokens = tokens.roles.to(coefficients.device)
        roles = {
            role: layout.sum(coefficients * (of_tokens == code)).tolist()
            for code, role in enumerate(ROLES)
            if bool(((of_tokens == code) & (coefficients != 0)).any())
        }
    for example, norm in enumerate(norms):
        if not trained[example]:
            continue
        yield "gradient_norm", norm
        yield f"gradient_norm/length_{2 ** (int(trained[example]).bit_length() - 1)}", norm
        for role, parts in roles.items():
            yield f"gradient_norm/role_{role}", norm * parts[example] / whole[example]
        if tasks is not None:
            task = int(_first(tasks, layout.examples == example, question.coefficients))
            if task >= 0:
                yield f"gradient_norm/task_{names[task] if task < len(names) else task}", norm


def _first(values: Tensor, is_mine: Tensor, coefficients: Tensor) -> Tensor:
    """The value at the first trained token of an example."""
    at = (is_mine & (coefficients != 0)).nonzero()[0, 0]
    return values.to(at.device)[at]
