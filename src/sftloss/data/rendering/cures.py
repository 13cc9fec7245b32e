"""What makes a chat template take a conversation that it refuses or does not show whole: each cure is tried."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from sftloss.data.examples import Message
from sftloss.data.reasons import BadRow
from sftloss.data.rendering.families import training_template, trl_templates
from sftloss.data.rendering.template import Template, Tools
from sftloss.errors import mention

_Messages = Sequence[Message]
_Rows = list[list[Message]]


def cure_of(template: Template, messages: _Messages, tools: Tools, attempt: Callable[..., Any]) -> str:
    """The first cure with which `attempt` succeeds, as a clause: another template, another spelling, or both."""
    name = training_template(template.text(tools))
    templates, named = [("", template)], f"give {mention('template', name)}, TRL's template for training this family"
    if name is not None:
        templates.append((named, Template(template.tokenizer, trl_templates()[name], template.kwargs)))
    candidates = [(named, "", templates[-1][1], [list(messages)])] if name is not None else []
    for other, candidate in templates:
        candidates += [(other, sentence, candidate, change(messages)) for change, sentence in _CHANGES]
    for other, sentence, candidate, rows in candidates:
        try:
            for row in rows:
                attempt(candidate, row, tools)
        except BadRow:
            continue
        return " and ".join(filter(None, (sentence, other)))
    return f"write the conversation as the template expects it, or give another {mention('template')}"


def _system_in_user(messages: _Messages) -> _Rows:
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    others = [message for message in messages if message.role != "system"]
    if system and others and others[0].role == "user":
        others[0] = replace(others[0], content=f"{system}\n\n{others[0].content}")
    return [others]


def _one_call_each(messages: _Messages) -> _Rows:
    results = iter([message for message in messages if message.role == "tool"])
    split: list[Message] = []
    for message in messages:
        for i, call in enumerate(message.tool_calls):
            split.append(replace(message if not i else Message("assistant", ""), tool_calls=(call,)))
            if result := next(results, None):
                split.append(result)
        split += [] if message.tool_calls or message.role == "tool" else [message]
    return [split]


def _joined(messages: _Messages) -> _Rows:
    groups = (list(group) for _, group in groupby(messages, key=lambda message: message.role))
    return [[replace(group[0], content="\n\n".join(message.content for message in group)) for group in groups]]


def _from_first_user(messages: _Messages) -> _Rows:
    first = next((i for i, message in enumerate(messages) if message.role == "user"), 0)
    return [[message for i, message in enumerate(messages) if i >= first or message.role == "system"]]


def _calls_as_text(messages: _Messages) -> _Rows:
    changed = []
    for message in messages:
        calls = [json.dumps(call.get("function", call), default=str) for call in message.tool_calls]
        role = "user" if message.role == "tool" else message.role
        changed.append(replace(message, role=role, content="\n".join([message.content, *calls]).strip(), tool_calls=()))
    return _joined(changed)


def _one_answer_a_row(messages: _Messages) -> _Rows:
    """One row for each answer, which trains it alone."""
    ends = [i for i, message in enumerate(messages) if message.role == "assistant" and message.weight != 0]
    return [
        [replace(m, weight=0.0) if m.role == "assistant" and i < end else m for i, m in enumerate(messages[: end + 1])]
        for end in ends
    ]


def _calls_alone(messages: _Messages) -> _Rows:
    return [[replace(message, content="") if message.tool_calls else message for message in messages]]


def _without_reasoning(messages: _Messages) -> _Rows:
    return [[replace(m, reasoning=None, content=m.content.rpartition("</think>")[2]) for m in messages]]


_CHANGES: tuple[tuple[Callable[[_Messages], _Rows], str], ...] = (
    (_system_in_user, "put the system text into the first message of the user"),
    (_one_call_each, "write one tool call a message, each followed by its result"),
    (_joined, "join consecutive messages of one role"),
    (_from_first_user, "begin the conversation with a message of the user"),
    (
        _one_answer_a_row,
        "write a row for each answer, which ends with it and gives the answers before it weight 0",
    ),
    (
        _calls_as_text,
        "write tool calls into the text of the answer and their results into the message of the user that follows",
    ),
    (_calls_alone, "leave out the text beside the tool calls"),
    (_without_reasoning, "leave out the reasoning"),
)
