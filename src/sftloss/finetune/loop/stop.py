"""SIGINT and SIGTERM as a request: finish the step, save a checkpoint, end. A second one ends the run at once."""

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
        """Take the signals over and restore their handlers afterwards. Only the main thread can.

        A signal that is ignored stays ignored: the parent process (nohup, a background job) has decided so.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        handlers = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

        def restore() -> None:
            for number, handler in handlers.items():
                signal.signal(number, handler)

        def ask(number: int, frame: Any) -> None:
            self.asked = number
            restore()

        for number in handlers:
            signal.signal(number, ask)
        try:
            yield
        finally:
            restore()

    def agreed(self, device: torch.device) -> int:
        """The signal that any rank was given; every rank calls, so that all stop after the same step."""
        if world_size() > 1:
            self.asked = int(reduce_over_ranks(torch.tensor(self.asked, device=device), "max"))
        return self.asked
