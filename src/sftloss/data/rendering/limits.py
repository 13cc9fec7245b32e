"""Limits of what a chat template may make, and of the time it may take: templates come with models and are programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ctypes import c_ulong, py_object, pythonapi
from itertools import accumulate
from threading import Thread
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


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """What `work` returns, in a thread that is stopped when the time is over; work in C cannot be stopped.

    Raises:
        TimeoutError: If it takes longer; and whatever `work` raises.
    """
    results: list[Any] = []
    errors: list[Exception] = []

    def call() -> None:
        try:
            results.append(work())
        except Exception as error:
            errors.append(error)
        except SystemExit:  # stopped, see below
            pass

    thread = Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        pythonapi.PyThreadState_SetAsyncExc(c_ulong(thread.ident or 0), py_object(SystemExit))
        raise TimeoutError(f"it takes more than {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]
