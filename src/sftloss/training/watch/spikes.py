"""Losses far above those before them, and losses that rise: one warning for each, with the rows behind it."""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import torch

from sftloss.ranks import is_distributed, rank_of
from sftloss.training.passes import Pass
from sftloss.training.watch.rows import say_largest, say_non_finite
from sftloss.words import number

WINDOW, FEWEST, DEVIATIONS, MARGIN = 64, 16, 10.0, 0.25
LEAST = 5.0  # nats: one token of probability 0.7 % adds as much, so a smaller surplus may be chance
_RECENT = WINDOW // 2  # losses whose median is compared with the lowest such median
_RISE, _RISE_DEVIATIONS = 0.5, 3.0
_HIDDEN = 3  # the bound is above the third largest loss, so that two spikes do not hide the next
_LOG = logging.getLogger("sftloss.training")


class SpikeWatch:
    r"""Judges each micro-batch of this rank by :math:`m = \sum c f / \sum |c|`, its mean loss a unit of coefficient.

    Where batches have tasks, each task has its own m and its own history, because a difference between two tasks is no
    spike. Over the last 64 values (from the 16th on), with :math:`\hat\sigma` = 1.4826 times the median absolute
    deviation from the median and :math:`m_{(3)}` the third largest, there is a spike where

    .. math::
        m > \max\big(\text{median} + \max(10 \, \hat\sigma, \tfrac14 |\text{median}|, 5 / n), \; \tfrac54 m_{(3)}\big)

    with :math:`n = (\sum |c|)^2 / \sum c^2`, the number of tokens where all have the same coefficient. A spike
    adds at least 5 nats to the usual, so a harder answer of two tokens is none among losses near zero.

    Medians, because one spike must not hide the next. A spike lasts until m is below the bound again and warns once.

    A loss that grows slowly takes its median with it and is no spike. It is reported as rising where the median of the
    last 32 values is above the lowest such median so far by half of it, and by three standard deviations of the values,
    which are estimated from successive differences, so that the rise itself does not count as noise.

    Nothing is communicated: a rank judges its own rows by its own history, and the warning names the rank.

    Attributes:
        names: Names of the tasks for the warnings, in the order of their indices.
        largest: The rows behind the spikes that began with the last micro-batch, empty where none did.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names, self.largest = tuple(names), ""
        self._by_task: dict[int, _History] = {}

    def look(self, seen: Pass) -> bool:
        """Judge one micro-batch and return whether a spike begins with it. Waits for the device once.

        Raises:
            FloatingPointError: If its loss is not finite; the message names the rows.
        """
        loss, means = _means(seen)
        if not math.isfinite(loss):
            raise FloatingPointError(say_non_finite(seen))
        rows: list[str] = []
        for task, (mean, tokens) in means.items() if seen.is_training else ():
            history = self._by_task.setdefault(task, _History())
            where = f" on rank {rank_of()}" if is_distributed() else ""
            of_task = f" on task {self._name(task)}" if len(self._by_task) > 1 else ""
            if history.begins_spike(mean, tokens):
                rows.append(say_largest(seen, task=task))
                _LOG.warning(
                    "sftloss: a spike%s: this micro-batch's loss%s is %s a token, the median of the %d before it %s; "
                    "the most of its loss is at %s.",
                    *(where, of_task, number(mean), len(history.before), number(statistics.median(history.before))),
                    rows[-1],
                )
            lowest = history.lowest
            if history.begins_rise(mean):
                _LOG.warning(
                    "sftloss: the loss%s rises%s: the median of the last %d micro-batches is %s a token, it was %s; "
                    "lower the learning rate, or check whether the rows have become harder.",
                    *(of_task, where, _RECENT, number(history.recent()), number(lowest)),
                )
        self.largest = "; ".join(rows)
        return bool(rows)

    def _name(self, task: int) -> str:
        return self.names[task] if 0 <= task < len(self.names) else str(task)

    def state(self) -> list[float]:
        """The histories, for a checkpoint."""
        return [value for task, one in self._by_task.items() for value in (float(task), *one.state())]

    def restore(self, state: list[float]) -> None:
        """Continue from the `state` of an earlier run."""
        self._by_task, rest = {}, deque(state)
        while rest:
            task = int(rest.popleft())
            self._by_task[task] = _History.restored(rest)


class _History:
    """The losses of one task before the micro-batch that is judged, and what was reported of them."""

    def __init__(self) -> None:
        self.before: deque[float] = deque(maxlen=WINDOW)
        self.lowest = math.inf
        self.is_high = self.is_rising = False

    def begins_spike(self, mean: float, tokens: float) -> bool:
        """Whether a spike begins with this loss, the mean over so many tokens."""
        bound = self._bound(tokens)
        was_high, self.is_high = self.is_high, bound is not None and mean > bound
        return self.is_high and not was_high

    def begins_rise(self, mean: float) -> bool:
        """Add the loss, and return whether the losses have begun to rise."""
        self.before.append(mean)
        if len(self.before) < _RECENT:
            return False
        recent = self.recent()
        # the mean size of a difference of two normal values is 2 / sqrt(pi) standard deviations
        noise = math.sqrt(math.pi) / 2.0 * statistics.fmean(abs(b - a) for a, b in pairwise(self.before))
        rise = max(_RISE * abs(self.lowest), _RISE_DEVIATIONS * noise)
        was_rising = self.is_rising
        self.is_rising = recent > self.lowest + rise * (0.5 if was_rising else 1.0)  # it ends well below its begin
        self.lowest = min(self.lowest, recent)
        return self.is_rising and not was_rising

    def recent(self) -> float:
        """The median of the last 32 losses."""
        return statistics.median(list(self.before)[-_RECENT:])

    def state(self) -> list[float]:
        return [self.lowest, float(self.is_high), float(self.is_rising), float(len(self.before)), *self.before]

    @classmethod
    def restored(cls, values: deque[float]) -> _History:
        """The history whose `state` comes next in `values`, which are taken away."""
        one = cls()
        one.lowest, one.is_high, one.is_rising = values.popleft(), bool(values.popleft()), bool(values.popleft())
        one.before.extend(values.popleft() for _ in range(int(values.popleft())))
        return one

    def _bound(self, tokens: float) -> float | None:
        if len(self.before) < FEWEST:
            return None
        middle = statistics.median(self.before)
        spread = 1.4826 * statistics.median(abs(value - middle) for value in self.before)
        usual = sorted(self.before)[-_HIDDEN]
        return max(middle + max(DEVIATIONS * spread, MARGIN * abs(middle), LEAST / tokens), usual + MARGIN * abs(usual))


def _means(seen: Pass) -> tuple[float, dict[int, tuple[float, float]]]:
    """The loss of the micro-batch, and of each of its tasks the mean loss a unit of coefficient and n."""
    sizes = seen.coefficients.abs().double()
    squares = sizes.square()
    if seen.tokens.tasks is None:
        loss, size, square = torch.stack([seen.loss.double(), sizes.sum(), squares.sum()]).tolist()
        return loss, {0: (loss / size, size * size / square)} if size else {}
    names, index = torch.unique(seen.tokens.tasks.to(sizes.device), return_inverse=True)
    sums = sizes.new_zeros(3, len(names))
    sums.index_add_(1, index, torch.stack([seen.weighted_losses().double(), sizes, squares]))
    values = torch.cat([names.double(), sums.flatten(), seen.loss.double().reshape(1)]).tolist()
    tasks, losses, weights, of_squares = (values[i * len(names) : (i + 1) * len(names)] for i in range(4))
    table = zip(tasks, losses, weights, of_squares, strict=True)
    return values[-1], {int(t): (loss / size, size * size / square) for t, loss, size, square in table if size}
