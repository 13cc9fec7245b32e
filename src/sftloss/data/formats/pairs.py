"""Rows with a prompt and a response, under any of their usual names; preference rows by their good half."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from sftloss.data.examples import Message
from sftloss.data.formats.format import Format, RawRow, as_text, required, way_out
from sftloss.data.formats.messages import chat_of
from sftloss.data.formats.turns import turns
from sftloss.data.reasons import BadRow, excerpt

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
    if not isinstance(value, list | tuple):
        return None
    if value and not any(isinstance(one, Mapping) for one in value):
        problem = f"{name} is {excerpt(value, 40)}; write one text, or a list of messages with role and content"
        raise BadRow("non-string-content", problem)
    return turns(value, name)


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

ALPACA = Format(
    "alpaca",
    lambda row: "instruction" in row and "output" in row and "completion" not in row and "response" not in row,
    partial(pair, prompt="instruction", response="output"),
    "`instruction`, `output`, and where there are some `input`, `system` and `history` ([prompt, answer] pairs)",
    {"instruction": "Add.", "input": "2 + 2", "output": "4"},
    order=30,
)

_SPEAKER = re.compile(r"\n\n(Human|Assistant): ")


def is_preference(row: RawRow) -> bool:
    """Whether a row has a good and a bad answer."""
    return row.get("chosen") is not None and row.get("rejected") is not None


def chosen(row: RawRow) -> list[Message]:
    """The conversation with the chosen answer, which may hold the prompt itself."""
    answer = required(row, "chosen")
    said = _messages(answer, "chosen")
    if said[0].role != "assistant":
        return said
    prompt = chat_of(row) if chat_of(row) is not None else next((row[key] for key in PROMPTS if row.get(key)), None)
    if prompt is None:
        raise BadRow("unknown-shape", "chosen is an answer, and the row has no prompt; give it a column prompt")
    return [*_messages(prompt, "prompt", role="user"), *said]


def _messages(value: Any, name: str, role: str = "assistant") -> list[Message]:
    """A conversation, one turn of it, or a text; a text may be a transcript of Human and Assistant."""
    if isinstance(value, dict):
        return turns([value], name)
    if isinstance(value, list | tuple):
        messages = turns(value, name)
        if not messages:
            raise BadRow("empty-messages", f"{name} is empty")
        return messages
    text = as_text(value, name)
    _, *parts = _SPEAKER.split(text)
    if text.startswith("\n\nHuman: ") and len(parts) > 2:
        roles = {"Human": "user", "Assistant": "assistant"}
        return [Message(roles[who], said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True)]
    return [Message(role, text)]


PREFERENCE = Format(
    "preference",
    lambda row: False,
    chosen,
    "`chosen` is trained, `rejected` is not: texts, turns or conversations, with a prompt where they hold none; only "
    "with `--format preference`",
    {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
    order=95,
)
