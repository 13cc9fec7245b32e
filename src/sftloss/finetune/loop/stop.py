"""SIGINT and SIGTERM as a wish: finish the step, save a checkpoint, end. A second one ends the run at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sftloss.ranks import reduce_over_ranks, world_size

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether, and by which signal, this run was asked to stop."""

    def __init__(self) -> None:
        self.asked = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over; their own handlers are given back. Only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def give_back() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def ask(number: int, frame: Any) -> None:
            self.asked = number
            give_back()

        for number in _SIGNALS:
            signal.signal(number, ask)
        try:
            yield
        finally:
            give_back()

    def agreed(self, device: torch.device) -> int:
        """The signal that any rank was given; every rank calls, so that all stop after the same step."""
        if world_size() > 1:
            self.asked = int(reduce_over_ranks(torch.tensor(self.asked, device=device), "max"))
        return self.asked
