"""Losses far above those before them: one warning for each, with the rows behind it."""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque

import torch

from sftloss.ranks import is_distributed, rank_of
from sftloss.training.passes import Pass
from sftloss.training.watch.rows import say_largest, say_non_finite

WINDOW, FEWEST, DEVIATIONS, MARGIN = 64, 16, 10.0, 0.25
_LOG = logging.getLogger("sftloss.training")


class SpikeWatch:
    r"""Judges each micro-batch of this rank by :math:`m = \sum c f / \sum |c|`, its mean loss a unit of coefficient.

    It is a spike where, over the last 64 micro-batches (from the 16th on), with
    :math:`\hat\sigma` = 1.4826 times the median absolute deviation from the median,

    .. math:: m > \text{median} + \max(10 \, \hat\sigma, \; \tfrac14 |\text{median}|)

    Medians, because one spike must not hide the next. A spike lasts until m is below the bound again and warns once.
    Nothing is communicated: a rank judges its own rows by its own history, and the warning names the rank.
    """

    def __init__(self) -> None:
        self._before: deque[float] = deque(maxlen=WINDOW)
        self._is_high = False

    def look(self, seen: Pass) -> bool:
        """Judge one micro-batch and return whether a spike begins with it. Waits for the device once.

        Raises:
            FloatingPointError: If its loss is not finite; the message names the rows.
        """
        value, size = torch.stack([seen.loss.double(), seen.coefficients.abs().sum(dtype=torch.float64)]).tolist()
        if not math.isfinite(value):
            raise FloatingPointError(say_non_finite(seen))
        if not seen.is_training or not size:
            return False
        mean = value / size
        bound = self._bound()
        is_high = bound is not None and mean > bound
        begins = is_high and not self._is_high
        if begins:
            typical = statistics.median(self._before)
            _LOG.warning(
                "sftloss: a spike%s: this micro-batch's loss is %.3g a token, the median of the %d before it %.3g; "
                "the most of it is at %s.",
                f" on rank {rank_of()}" if is_distributed() else "",
                mean,
                len(self._before),
                typical,
                say_largest(seen),
            )
        self._is_high = is_high
        self._before.append(mean)
        return begins

    def state(self) -> list[float]:
        """The history, for a checkpoint."""
        return [float(self._is_high), *self._before]

    def restore(self, state: list[float]) -> None:
        """Continue from the `state` of an earlier run."""
        self._is_high, self._before = bool(state[0]), deque(state[1:], maxlen=WINDOW)

    def _bound(self) -> float | None:
        if len(self._before) < FEWEST:
            return None
        middle = statistics.median(self._before)
        spread = 1.4826 * statistics.median(abs(value - middle) for value in self._before)
        return middle + max(DEVIATIONS * spread, MARGIN * abs(middle))
