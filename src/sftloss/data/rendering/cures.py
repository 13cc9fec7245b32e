"""What makes a chat template take a conversation that it refuses or does not show whole: each cure is tried."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from os.path import commonprefix
from typing import Any

from sftloss.data.examples import Message
from sftloss.data.reasons import BadRow, excerpt
from sftloss.data.rendering.families import training_template, trl_templates
from sftloss.data.rendering.marks import JOINER
from sftloss.data.rendering.template import TAKEN, Template, Tools
from sftloss.errors import mention

_Messages = Sequence[Message]
_Rows = list[list[Message]]
_Change = tuple[Callable[[_Messages], _Rows], str]
_MOST_TRIES = 3
_MOST_VARIABLES = 4
_EXCERPT = 40  # characters of words that differ
_VALUES: tuple[Any, ...] = ("text", 1, [], {})  # of a variable that a template lacks: the first that it takes
_THOUGHTS = re.compile(r"^(?:(?!<think>).)*</think>\s*|<think>.*?</think>\s*|^\s*<think>.*", re.DOTALL)


AS_SHOWN = "write the words as the template does"


@dataclass(frozen=True)
class _Candidate:
    """A template with tools and with changes of the messages, and what the user has to do for it."""

    words: str
    template: Template
    tools: Tools
    changes: tuple[_Change, ...] = ()


def cure_of(template: Template, messages: _Messages, tools: Tools, fault: BadRow, attempt: Callable[..., Any]) -> str:
    """The first cure with which `attempt` succeeds, as a clause: another template, another spelling, or both.

    The cure that worked last is tried first, and a fault that no cure mended a few times is not tried again in
    conversations of the same shape, so that a file of refused rows costs little.
    """
    kind = ("no cure", fault.reason, fault.detail.split("(")[0], *map(_shape, messages))
    if template.learned.get(kind, 0) < _MOST_TRIES:
        if cure := _variables(template, messages, tools, fault, attempt):
            return cure
        candidates = _candidates(template, tools)
        last: int | None = template.learned.get("cure")
        for i in sorted(range(len(candidates)), key=lambda i: i != last):
            one = candidates[i]
            rows = [list(messages)]
            for change, _ in one.changes:
                rows = [changed for row in rows for changed in change(row)]
            if not rows or not all(rows):
                continue
            with suppress(BadRow):
                for row in rows:
                    attempt(one.template, row, one.tools)
                template.learned["cure"] = i
                return " and ".join(filter(None, (*(words for _, words in one.changes), one.words)))
        with suppress(BadRow):
            if (changed := as_shown(template, messages, tools)) != list(messages):
                attempt(template, changed, tools)
                return f"{AS_SHOWN}, {_first_difference(messages, changed, fault.message or 0)}"
        if cure := _untrained(template, messages, tools, fault, attempt):
            return cure
        template.learned[kind] = template.learned.get(kind, 0) + 1
    return (
        "no form of the row was found that this template shows whole: remove the row, or give another "
        f"{mention('template')}"
    )


def _shape(message: Message) -> tuple[Any, ...]:
    """What a template may treat otherwise."""
    thinks = bool(message.reasoning) + 2 * ("</think>" in message.content)
    return message.role, bool(message.content), thinks, len(message.tool_calls), message.weight == 0


def _variables(template: Template, messages: _Messages, tools: Tools, fault: BadRow, attempt: Any) -> str:
    """Values for the variables that the template lacks, one after the other; empty where none of these will do."""
    kwargs: dict[str, Any] = {}
    next_fault: BadRow | None
    for _ in range(_MOST_VARIABLES):
        missing = re.search(r"'(\w+)' is undefined", fault.detail)
        if missing is None or missing[1] in TAKEN or missing[1] in kwargs:
            return ""
        for value in ("",) if missing[1].endswith("_token") else _VALUES:
            key = ("with variables", json.dumps({**kwargs, missing[1]: value}, sort_keys=True))
            if key not in template.learned:
                known = {**template.kwargs, **kwargs, missing[1]: value}
                template.learned[key] = Template(template.tokenizer, template.text(tools), known)
            try:
                attempt(template.learned[key], messages, tools)
            except BadRow as other:
                if "is undefined" not in other.detail or f"'{missing[1]}'" in other.detail:
                    continue
                next_fault = other
            else:
                next_fault = None
            kwargs[missing[1]] = value
            break
        else:
            return ""
        if next_fault is None:
            pairs = ",".join(f"{name}={json.dumps(value)}" for name, value in kwargs.items())
            return f"give the template its variables, as with {mention('chat_template_kwargs', pairs)}"
        fault = next_fault
    return ""


def as_shown(template: Template, messages: _Messages, tools: Tools) -> list[Message]:
    """The conversation with the words that the template writes in place of its own."""
    try:
        shown = template.show(messages, tools, template.style(messages))
    except Exception:  # whatever the template raises
        return list(messages)
    others = {(piece.message, piece.kind): shown.other(piece) for piece in shown.lost}
    return [
        replace(
            message,
            content=others.get((number, "text")) or message.content,
            reasoning=message.reasoning and (others.get((number, "reasoning")) or message.reasoning),
        )
        for number, message in enumerate(messages)
    ]


def _first_difference(before: _Messages, after: _Messages, start: int) -> str:
    """The first words that differ from message `start` on, from the beginning of a word."""
    for number, (old, new) in list(enumerate(zip(before, after, strict=True), start=1))[start:]:
        for own, shown in ((old.reasoning or "", new.reasoning or ""), (old.content, new.content)):
            if own != shown:
                at = own.rfind(" ", 0, len(commonprefix([own, shown]))) + 1
                words = (excerpt(text[at:], _EXCERPT) for text in (shown, own))
                return f"in message {number} {' in place of '.join(words)}"
    return "in every message"


def _untrained(template: Template, messages: _Messages, tools: Tools, fault: BadRow, attempt: Any) -> str:
    """Weight 0 for the answers that the template does not show; empty where that leaves nothing to train."""
    rows, numbers = list(messages), list[int]()
    while fault.message is not None and fault.message not in numbers:
        numbers.append(fault.message)
        rows[numbers[-1]] = replace(rows[numbers[-1]], weight=0.0)
        if not any(message.role == "assistant" and message.weight != 0 for message in rows):
            return ""
        try:
            attempt(template, rows, tools)
        except BadRow as other:
            fault = other
        else:
            places = ", ".join(str(number + 1) for number in sorted(numbers))
            return f"leave the answers untrained that it does not show whole, with weight 0 for message {places}"
    return ""


def _candidates(template: Template, tools: Tools) -> list[_Candidate]:
    name = training_template(template.text(tools))
    others = [_Candidate("", template, tools)]
    if name is not None:
        if "training" not in template.learned:
            template.learned["training"] = Template(template.tokenizer, trl_templates()[name], template.kwargs)
        words = f"give {mention('template', name)}, TRL's template for training this family"
        others.append(_Candidate(words, template.learned["training"], tools))
    if tools:
        others.append(_Candidate("leave out the column of tools, which this template cannot write", template, None))
    changes = [(), *((one,) for one in CHANGES), *combinations(CHANGES, 2)]
    return [replace(other, changes=of) for of in changes for other in others if of or other.words]


def _joined(messages: _Messages) -> list[Message]:
    groups = (list(group) for _, group in groupby(messages, key=lambda message: message.role))
    return [replace(group[0], content=JOINER.join(message.content for message in group)) for group in groups]


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


def _question_first(messages: _Messages) -> _Rows:
    """The conversation with a question before its first answer."""
    first = next((i for i, message in enumerate(messages) if message.role != "system"), 0)
    if not messages or messages[first].role != "assistant":
        return []
    return [[*messages[:first], Message("user", "..."), *messages[first:]]]


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


def without_reasoning(messages: _Messages) -> list[Message]:
    """The messages without the reasoning of answers: a field, or what is before ``</think>`` in the content.

    A content that begins with a ``<think>`` and does not close it is reasoning to its end.
    """
    return [
        replace(m, reasoning=None, content=_THOUGHTS.sub("", m.content)) if m.role == "assistant" else m
        for m in messages
    ]


def _no_reasoning(messages: _Messages) -> _Rows:
    rest = without_reasoning(messages)
    empty = (not (m.content.strip() or m.tool_calls) for m in rest if m.role == "assistant" and m.weight != 0)
    return [] if any(empty) else [rest]


def _without_empty(messages: _Messages) -> _Rows:
    return [[message for message in messages if message.content or message.tool_calls or message.reasoning]]


CHANGES: tuple[_Change, ...] = (
    (_one_call_each, "write one tool call a message, each followed by its result"),
    (_from_first_user, "begin the conversation with a message of the user"),
    (_question_first, "write the message of the user that it answers before the first answer"),
    (
        _one_answer_a_row,
        "write a row for each answer, which ends with it and gives the answers before it weight 0",
    ),
    (
        _calls_as_text,
        "write tool calls into the text of the answer and their results into the message of the user that follows",
    ),
    (_calls_alone, "leave out the text beside the tool calls"),
    (_no_reasoning, f"leave out the reasoning with {mention('thinking', 'drop')}"),
    (_without_empty, "leave out messages that hold nothing"),
)
