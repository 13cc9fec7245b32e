"""Limits of what a chat template may make, and of the time it may take: templates come with models and are programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ctypes import c_ulong, py_object, pythonapi
from itertools import accumulate
from queue import Empty, SimpleQueue
from threading import Thread, local
from typing import Any

MOST = 1_000_000
"""Characters that a template may add to a conversation."""

SECONDS = 10.0
"""Time for a template to render two short messages, and for ten times that a conversation; most take milliseconds."""


def runs_away(text: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    """Why a template is not run on data, which short messages show, rendered bit by bit; empty where it can be."""
    try:
        from transformers.utils.chat_template_utils import _compile_jinja_template as compiled
    except ImportError:  # not public; without it a template is bounded only after it was rendered
        return ""

    def is_long() -> bool:
        parts = compiled(text).generate(messages=list(messages), tools=None, add_generation_prompt=False, **variables)
        return any(size > MOST for size in accumulate(map(len, parts)))

    try:
        return f"it makes more than {MOST:,} characters of two words" if within(SECONDS, is_long) else ""
    except TimeoutError as error:
        return f"{error} for two words"
    except Exception:  # it needs other messages; what it makes of those of a row is seen when that is rendered
        return ""


class _Worker(Thread):
    """A thread that calls one function after another: starting a thread for each rendering took longer than most."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.tasks: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self.outcomes: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()
        self.start()

    def run(self) -> None:
        """Put an outcome, a value or an error, for each task; end by the SystemExit that :func:`within` raises here."""
        with suppress(SystemExit):
            while True:
                task = self.tasks.get()
                try:
                    self.outcomes.put((task(), None))
                except Exception as error:
                    self.outcomes.put((None, error))


_here = local()  # a worker for each thread that renders; a forked process starts its own


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """What `work` returns, in a thread that is stopped when the time is over; work in C cannot be stopped.

    Raises:
        TimeoutError: If it takes longer; and whatever `work` raises.
    """
    worker: _Worker | None = getattr(_here, "worker", None)
    if worker is None or not worker.is_alive():
        worker = _here.worker = _Worker()
    worker.tasks.put(work)
    try:
        value, error = worker.outcomes.get(timeout=seconds)
    except BaseException as stop:  # the time is over, or Ctrl-C
        _here.worker = None
        pythonapi.PyThreadState_SetAsyncExc(c_ulong(worker.ident or 0), py_object(SystemExit))
        if not isinstance(stop, Empty):
            raise
        raise TimeoutError(f"it takes more than {seconds:g} s") from None
    if error is not None:
        raise error
    return value
