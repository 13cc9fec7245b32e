"""An oracle over the chat templates in TRL: conversations of marker words, and what became of each word.

``python -m tests.data.template_sweep`` rewrites the table in docs/templates.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tests.data.families import FAMILIES
from tests.tiny import EOS, tiny_tokenizer

from sftloss.data import Message, Record, RowError, encode, read_records
from sftloss.data.rendering.cures import AS_SHOWN, CHANGES, as_shown, without_reasoning
from sftloss.data.rendering.families import trl_templates
from sftloss.data.rendering.template import Template
from sftloss.docstrings import write_regions

TOOL = {
    "type": "function",
    "function": {
        "name": "toolname",
        "description": "Looks things up.",
        "parameters": {"type": "object", "properties": {"q": {"type": "string", "description": "what"}}},
    },
}


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **fields}


def call(argument: Any, name: str = "toolname", id: str = "abcdefghi") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": {"q": argument}}}


def result(text: Any, id: str = "abcdefghi", name: str = "toolname") -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": id, "name": name}


SYSTEM = {"role": "system", "content": "Wsystem"}
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "plain": {"messages": [user("Wask"), answer("Wtell")]},
    "system": {"messages": [SYSTEM, user("Wask"), answer("Wtell")]},
    "turns": {
        "messages": [user("Wask"), answer("Wtell"), user("Wagain"), answer("Wmore"), user("Wthird"), answer("Wlast")]
    },
    "inline reasoning": {"messages": [user("Wask"), answer("<think>\nWthought\n</think>\n\nWtell")]},
    "reasoning": {"messages": [user("Wask"), answer("Wtell", reasoning_content="Wthought")]},
    "reasoning, turns": {
        "messages": [user("Wask"), answer("Wtell", reasoning_content="Wthought"), user("Wagain"),
                     answer("Wmore", reasoning_content="Wrethought")]
    },
    "call": {
        "messages": [user("Wask"), answer("", tool_calls=[call("Warg")]), result("Wresult"), answer("Wtell")],
        "tools": [TOOL],
    },
    "two calls": {
        "messages": [user("Wask"), answer("", tool_calls=[call("Warg"), call("Wsecond", id="bcdefghij")]),
                     result("Wresult"), result("Wother", id="bcdefghij"), answer("Wtell")],
        "tools": [TOOL],
    },
    "call and text": {
        "messages": [user("Wask"), answer("Wbeside", tool_calls=[call("Warg")]), result("Wresult"), answer("Wtell")],
        "tools": [TOOL],
    },
    "call last": {"messages": [user("Wask"), answer(None, tool_calls=[call("Warg")])], "tools": [TOOL]},
    "call, reasoning": {
        "messages": [user("Wask"), answer("", reasoning_content="Wthought", tool_calls=[call("Warg")]),
                     result("Wresult"), answer("Wtell", reasoning_content="Wrethought")],
        "tools": [TOOL],
    },
    "blocks": {"messages": [user([{"type": "text", "text": "Wask"}]), answer([{"type": "text", "text": "Wtell"}])]},
    "unicode": {"messages": [user("Wask 你好 🙂 é"), answer("Wtell 世界 🙂\n\nWñ <b>&amp;</b> \"quoted\"")]},
    "empty answer": {"messages": [user("Wask"), answer("", weight=0), user("Wagain"), answer("Wtell")]},
    "whitespace": {"messages": [user(" Wask \n"), answer("\n\n Wtell \n")]},
    "long": {"messages": [turn for i in range(20) for turn in (user(f"Wask{i}x"), answer(f"Wtell{i}x"))]},
    "two answers": {"messages": [user("Wask"), answer("Wtell"), answer("Wmore")]},
    "answer first": {"messages": [answer("Wtell"), user("Wask"), answer("Wmore")]},
    "two users": {"messages": [user("Wask"), user("Wagain"), answer("Wtell")]},
    "arguments": {
        "messages": [user("Wask"), answer("", tool_calls=[call({"n": 42, "deep": [True, {"k": "Wdeep"}]})]),
                     result("Wresult"), answer("Wtell")],
        "tools": [TOOL],
    },
    "call after call": {
        "messages": [user("Wask"), answer("", tool_calls=[call("Warg")]), result("Wresult"),
                     answer("", tool_calls=[call("Wsecond")]), result("Wother"), answer("Wtell")],
        "tools": [TOOL],
    },
    "two systems": {
        "messages": [SYSTEM, user("Wask"), answer("Wtell"), {"role": "system", "content": "Wrule"}, user("Wagain"),
                     answer("Wmore")]
    },
    "history": {
        "messages": [user("Wask"), answer("Wtell", reasoning_content="Wthought", weight=0), user("Wagain"),
                     answer("Wmore", reasoning_content="Wrethought")]
    },
    "user weight": {"messages": [user("Wask") | {"weight": 1}, answer("Wtell")]},
    "reasoning inline, turns": {
        "messages": [user("Wask"), answer("<think>\nWthought\n</think>\n\nWtell"), user("Wagain"),
                     answer("<think>\nWrethought\n</think>\n\nWmore")]
    },
    "empty thoughts": {
        "messages": [user("Wask"), answer("<think>\n\n</think>\n\nWtell"), user("Wagain"),
                     answer("<think>\n\n</think>\n\nWmore")]
    },
    "result as data": {
        "messages": [user("Wask"), answer("", tool_calls=[call("Warg")]), result({"value": ["Wresult", 3]}),
                     answer("Wtell")],
        "tools": [TOOL],
    },
    "result in blocks": {
        "messages": [user("Wask"), answer("", tool_calls=[call("Warg")]), result([{"type": "text", "text": "Wresult"}]),
                     answer("Wtell")],
        "tools": [TOOL],
    },
    "foreign ids": {
        "messages": [user("Wask"), answer(None, tool_calls=[call("Warg", id="call_1")]), result("Wresult", "call_1"),
                     answer("Wtell")],
        "tools": [TOOL],
    },
    "no ids, no tools": {
        "messages": [user("Wask"), {"role": "assistant", "tool_calls": [{"function": {"name": "toolname",
                     "arguments": '{"q": "Warg"}'}}]}, {"role": "tool", "content": "Wresult"}, answer("Wtell")]
    },
    "nulls": {
        "messages": [user("Wask") | {"tool_calls": None, "name": None, "reasoning_content": None},
                     answer("Wtell", tool_calls=None, reasoning_content=None, tool_call_id=None)],
        "tools": None,
    },
    "ends with a user": {"messages": [user("Wask"), answer("Wtell"), user("Wagain")]},
    "names": {"messages": [user("Wask") | {"name": "Bob"}, answer("Wtell", name="Ann")]},
    "short words": {"messages": [user("user"), answer("assistant"), user("a"), answer("user")]},
}  # fmt: skip
TEMPLATES = {**trl_templates(), **FAMILIES}
_TAGS = re.compile(
    r"<seed:[be]os>|\]~b\]|\[e~\[|<eoa>|<[|｜][^<>\s]+[|｜]>|<(?:start|end)_of_turn>|<\|\w+>|<\w+\|>|<end_of_utterance>|\[/?INST\]|</?s>"
)
_WORD = re.compile(r"W\w+")


@cache
def tokenizer_of(name: str) -> Any:
    """A byte tokenizer with the special tokens of a template."""
    text = TEMPLATES[name]
    special = [tag for tag in dict.fromkeys(_TAGS.findall(text)) if tag not in (EOS,)]
    return tiny_tokenizer([], vocab_size=300 + len(special), chat_template=text, special=special, bos=True)


@dataclass(frozen=True)
class Outcome:
    """What became of a conversation: "trained", "noted", "refused" or "wrong", and why."""

    state: str
    why: str = ""
    trained: str = ""


def judge(template: str, conversation: str | dict[str, Any]) -> Outcome:
    """Render a conversation, by its name or as it is, and compare every word with what should have become of it."""
    row = CONVERSATIONS[conversation] if isinstance(conversation, str) else conversation
    tokenizer = tokenizer_of(template)
    record = next(iter(read_records([row])))
    try:
        example = encode(record, tokenizer)
    except RowError as error:
        return _refusal(error, record, template, tokenizer)
    full, trained = tokenizer.decode(example.input_ids), tokenizer.decode(example.input_ids[example.weights > 0])
    notes = " ".join(example.notes)
    faults = [*_faults(row["messages"], full, trained, notes), *_ends(example, tokenizer, notes, row["messages"])]
    if faults:
        return Outcome("wrong", "; ".join(faults), trained)
    return Outcome("noted" if example.notes else "trained", notes, trained)


def words_of(message: dict[str, Any]) -> list[str]:
    text = repr({key: value for key, value in message.items() if key not in ("role", "name", "tool_call_id")})
    names = re.findall("'name': '(toolname)'", text)
    return names + _WORD.findall(text)


def _faults(messages: list[dict[str, Any]], full: str, trained: str, notes: str) -> list[str]:
    faults = []
    for message in messages:
        is_answer = message["role"] == "assistant" and message.get("weight") != 0
        for word in words_of(message):
            if word not in full and "lost" not in notes:
                faults.append(f"{word} lost in silence")
            if is_answer and word != "toolname" and trained.count(word) != 1:
                faults.append(f"{word} trained {trained.count(word)} times")
            if not is_answer and not message.get("weight") and word in trained and word != "toolname":
                faults.append(f"{word} of the {message['role']} is trained")
    return faults


def _ends(example: Any, tokenizer: Any, notes: str, messages: list[dict[str, Any]]) -> list[str]:
    """Each stretch of trained tokens ends with a special token; nothing that opens a turn is in it."""
    faults, runs = [], re.finditer("1+", "".join(str(int(w > 0)) for w in example.weights.tolist()))
    stretches = [tokenizer.decode(example.input_ids[run.start() : run.end()]) for run in runs]
    answers = [m for m in messages if m["role"] == "assistant" and m.get("weight") != 0]
    trained_users = sum(m["role"] != "assistant" and bool(m.get("weight")) for m in messages)
    is_joined = any(a["role"] == b["role"] == "assistant" for a, b in zip(messages, messages[1:], strict=False))
    if len(stretches) != len(answers) and not (is_joined or trained_users):  # ends of users stand apart
        faults.append(f"{len(stretches)} stretches for {len(answers)} answers")
    written = (*tokenizer.all_special_tokens, *Template(tokenizer).frame.ends)  # an end may be a text
    for stretch in stretches[trained_users:]:
        if not stretch.endswith(written) and "no_end_token" not in notes:
            faults.append(f"no end: {stretch[-20:]!r}")
    probe = encode(next(iter(read_records([{"messages": [user("Q"), answer("A")]}]))), tokenizer)
    head = tokenizer.decode(probe.input_ids).partition("Q")[0][-16:]
    if head.strip() and any(head in stretch for stretch in stretches):
        faults.append("the opener of a user is trained")
    return faults


def _refusal(error: RowError, record: Any, template: str, tokenizer: Any) -> Outcome:
    """A refusal is right if its cure, applied here as its words say, makes the row right."""
    cure = error.detail.rpartition("; ")[2]
    if "no form of the row was found" in cure:  # what is left is said in plain words
        return Outcome("refused", error.detail)
    if error.detail.startswith("answer "):
        return Outcome("wrong", error.detail)
    try:
        for row, how in cured(record, cure, tokenizer):
            example = encode(row, tokenizer, **how)
            full, trained = (
                tokenizer.decode(example.input_ids),
                tokenizer.decode(example.input_ids[example.weights > 0]),
            )
            said = without_reasoning(row.messages) if how.get("thinking") == "drop" else row.messages
            if faults := _faults([_as_row(one) for one in said], full, trained, " ".join(example.notes)):
                return Outcome("wrong", f"after the cure: {faults[0]} ({error.detail})")
    except RowError as other:
        return Outcome("wrong", f"the cure fails: {other.detail} ({error.detail})")
    return Outcome("refused", error.detail)


def _as_row(message: Message) -> dict[str, Any]:
    """A message as the oracle reads one; reasoning that is left out is not missed."""
    return {key: value for key, value in vars(message).items() if key != "extra"}


def cured(record: Record, cure: str, tokenizer: Any) -> list[tuple[Record, dict[str, Any]]]:
    """The rows and the options of `encode` that a cure asks for, by its words."""
    how: dict[str, Any] = {}
    for option in ("template", "thinking"):
        if found := re.search(f"\x00{option}\x00(\\w+)\x00", cure):
            how[option] = trl_templates()[found[1]] if option == "template" else found[1]
    if found := re.search("\x00chat_template_kwargs\x00(.*)\x00", cure):
        how["chat_template_kwargs"] = {k: json.loads(v) for k, _, v in (x.partition("=") for x in found[1].split(","))}
    rows = [list(record.messages)]
    for change, words in CHANGES:
        if words in cure and "thinking" not in words:
            rows = [changed for row in rows for changed in change(row)]
    if AS_SHOWN in cure:
        rows = [as_shown(Template(tokenizer), row, record.tools) for row in rows]
    if found := re.search(r"weight 0 for message ([\d, ]+)", cure):
        numbers = {int(number) - 1 for number in found[1].split(", ")}
        rows = [[replace(m, weight=0.0) if i in numbers else m for i, m in enumerate(row)] for row in rows]
    tools = None if "leave out the column of tools" in cure else record.tools
    return [(replace(record, messages=tuple(row), tools=tools), how) for row in rows]


def table(templates: Iterable[str]) -> str:
    """One row a template, one column a conversation."""
    marks = {"trained": "✓", "noted": "✓ *", "refused": "refused", "wrong": "wrong"}
    lines = ["| template | " + " | ".join(CONVERSATIONS) + " |", "|---" * (len(CONVERSATIONS) + 1) + "|"]
    for template in templates:
        cells = (marks[judge(template, conversation).state] for conversation in CONVERSATIONS)
        lines.append(f"| `{template}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    write_regions(Path("docs/templates.md"), {"matrix": table(trl_templates()), "families": table(FAMILIES)})
