"""Rows with a prompt column and a response column, under any of their usual names."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from sftloss.data.examples import Message
from sftloss.data.formats.format import Format, RawRow, as_text, way_out
from sftloss.data.formats.turns import turns
from sftloss.data.reasons import BadRow

PROMPTS = ("instruction", "prompt", "question", "query", "problem", "input")
RESPONSES = ("completion", "response", "output", "solution", "answer")
CONTEXTS = ("input", "context")  # what the instruction is about: appended to it


def pair(row: RawRow, *, prompt: str, response: str) -> list[Message]:
    """The conversation of a prompt and a response, each a text or a list of messages, with what came before it."""
    for name in (prompt, response):
        if name not in row:
            raise BadRow("unknown-shape", f"no {name}; {way_out(row)}")
    answer = _listed(row[response], response)
    if answer is None:
        answer = [Message("assistant", _text(row[response], response))]
    return [*_history(row.get("history")), *_prompt(row, prompt, response), *answer]


def _prompt(row: RawRow, prompt: str, response: str) -> list[Message]:
    messages = _listed(row[prompt], prompt)
    if messages is not None:  # answers in a prompt are context, unless their message states a weight
        return [replace(m, weight=0.0) if m.role == "assistant" and m.weight is None else m for m in messages]
    contexts = [key for key in CONTEXTS if key not in (prompt, response) and row.get(key) is not None]
    parts = [_text(row[prompt], prompt), *(as_text(row[key], key) for key in contexts)]
    return [Message("user", "\n".join(part for part in parts if part))]


def _text(value: Any, name: str) -> str:
    return "" if value is None else as_text(value, name)


def _listed(value: Any, name: str) -> list[Message] | None:
    return turns(value, name) if isinstance(value, list | tuple) else None


def _history(value: Any) -> list[Message]:
    if value is None or value == "":
        return []
    exchanges = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(exchange, list | tuple) and len(exchange) == 2 for exchange in exchanges):
        raise BadRow("non-string-content", "history is not a list of [prompt, answer] pairs")
    roles = ("user", "assistant")
    return [Message(role, as_text(text, "history")) for one in exchanges for role, text in zip(roles, one, strict=True)]


def _format(prompt: str, response: str, order: int) -> Format:
    return Format(
        f"{prompt}/{response}",
        lambda row: prompt in row and response in row,
        partial(pair, prompt=prompt, response=response),
        f"a prompt ({', '.join(f'`{name}`' for name in PROMPTS)}) and a response "
        f"({', '.join(f'`{name}`' for name in RESPONSES)}), each a text or a list of messages",
        {prompt: "2 + 2?", response: "4"},
        order,
        "prompt/response",
    )


_NAMES = [(prompt, response) for prompt in PROMPTS for response in RESPONSES]
PAIRS = tuple(_format(*names, order) for order, names in enumerate(_NAMES, 40) if names != ("instruction", "output"))
