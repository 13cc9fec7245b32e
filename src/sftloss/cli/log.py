"""What is logged while a verb runs: our own warnings as lines of ours, other libraries' only where asked for."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sftloss.cli.exit import say

_OURS = "sftloss"


class _Lines(logging.Handler):
    """A line on stderr for each record."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(record.getMessage())
        except Exception:
            self.handleError(record)


@contextmanager
def log_to_stderr(*, quiet: bool, verbose: bool) -> Iterator[None]:
    """Warnings of our loggers reach stderr unless the user asked for quiet, those of other libraries with ``-v`` only.

    Results never pass through here. Everything is put back at the end: a verb may run inside another program.
    """
    ours, lines = logging.getLogger(_OURS), _Lines(logging.ERROR if quiet else logging.WARNING)
    factory, propagate = logging.getLogRecordFactory(), ours.propagate
    ours.addHandler(lines)
    ours.propagate = False  # a library may have given the root a handler: each line would appear twice
    try:
        with warnings.catch_warnings():
            if not verbose:
                warnings.simplefilter("ignore")
                logging.setLogRecordFactory(_without_chatter(factory))
            yield
    finally:
        logging.setLogRecordFactory(factory)
        ours.removeHandler(lines)
        ours.propagate = propagate


def _without_chatter(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    """Records of other libraries, below errors, at a level that no handler shows.

    Libraries that a verb loads late set their loggers' levels then, so the levels cannot be set beforehand; and
    `logging.disable` would silence ours too.
    """

    def record(name: str | None, level: int | None, *rest: Any, **more: Any) -> logging.LogRecord:
        entry = make(name, level, *rest, **more)  # both None from logging.makeLogRecord, which fills them in itself
        if (level or 0) < logging.ERROR and (name or "").partition(".")[0] != _OURS:
            entry.levelno = -1
        return entry

    return record
