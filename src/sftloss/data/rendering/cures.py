"""What makes a chat template take a conversation that it refuses or does not show whole: each cure is tried."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, groupby
from typing import Any

from sftloss.data.examples import Message
from sftloss.data.reasons import BadRow
from sftloss.data.rendering.families import training_template, trl_templates
from sftloss.data.rendering.template import Template, Tools
from sftloss.errors import mention

_Messages = Sequence[Message]
_Rows = list[list[Message]]


def cure_of(template: Template, messages: _Messages, tools: Tools, attempt: Callable[..., Any]) -> str:
    """The first cure with which `attempt` succeeds, as a clause: another template, another spelling, or both.

    The cure that worked last is tried first, so that a file of one fault costs one attempt a row.
    """
    name = training_template(template.text(tools))
    templates, named = [("", template)], f"give {mention('template', name)}, TRL's template for training this family"
    if name is not None:
        if "training" not in template.learned:
            template.learned["training"] = Template(template.tokenizer, trl_templates()[name], template.kwargs)
        templates.append((named, template.learned["training"]))
    changes = [(), *((one,) for one in _CHANGES), *combinations(_CHANGES, 2)]
    candidates = [(other, candidate, of) for of in changes for other, candidate in templates if of or other]
    last: int | None = template.learned.get("cure")
    order = sorted(range(len(candidates)), key=lambda i: i != last)
    for i in order:
        sentence, candidate, of = candidates[i]
        rows = [list(messages)]
        for change, _ in of:
            rows = [changed for row in rows for changed in change(row)]
        try:
            for row in rows:
                attempt(candidate, row, tools)
        except BadRow:
            continue
        template.learned["cure"] = i
        return " and ".join(filter(None, (*(words for _, words in of), sentence)))
    return f"write the conversation as the template expects it, or give another {mention('template')}"


def _joined(messages: _Messages) -> list[Message]:
    groups = (list(group) for _, group in groupby(messages, key=lambda message: message.role))
    return [replace(group[0], content="\n\n".join(message.content for message in group)) for group in groups]


def _one_call_each(messages: _Messages) -> _Rows:
    """The conversation with one tool call a message, each followed by its result: by its id, else by the order."""
    split: list[Message] = []
    at = 0
    while at < len(messages):
        message, at = messages[at], at + 1
        if len(message.tool_calls) < 2:
            split.append(message)
            continue
        results: list[Message] = []
        while at < len(messages) and messages[at].role == "tool":
            results.append(messages[at])
            at += 1
        for i, call in enumerate(message.tool_calls):
            split.append(replace(message if not i else Message("assistant", "", message.weight), tool_calls=(call,)))
            if results:
                own = (r for r in results if r.extra.get("tool_call_id", "") == call.get("id"))
                split.append(results.pop(results.index(next(own, results[0]))))
        split += results
    return [split]


def _from_first_user(messages: _Messages) -> _Rows:
    first = next((i for i, message in enumerate(messages) if message.role == "user"), 0)
    return [[message for i, message in enumerate(messages) if i >= first or message.role == "system"]]


def _calls_as_text(messages: _Messages) -> _Rows:
    changed = []
    for message in messages:
        calls = [json.dumps(call.get("function", call), default=str) for call in message.tool_calls]
        role = "user" if message.role == "tool" else message.role
        changed.append(replace(message, role=role, content="\n".join([message.content, *calls]).strip(), tool_calls=()))
    return [_joined(changed)]


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
    (_one_call_each, "write one tool call a message, each followed by its result"),
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
