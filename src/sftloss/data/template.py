"""Messages to token spans: which tokens of a rendered conversation belong to which message.

Only `tokenizer.apply_chat_template` renders. It is sandboxed; plain Jinja on a model's template is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sftloss.data.examples import Message
from sftloss.data.formats.tools import tool_calls
from sftloss.data.reasons import BadRow

GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")

# For tokenizers without a template: headings instead of new special tokens, each answer closed by eos. Content is
# trimmed because whitespace at its start would merge with the newline of the opener and break the prefix property.
PLAIN_TEMPLATE = """{{ opening_bos }}{% if tools %}### Tools:
{{ tools | tojson }}

{% endif %}{% for message in messages %}{% if message.role == 'assistant' %}### Assistant:
{{ message.content | trim }}{% for call in message.tool_calls or [] %}{{ '' if loop.first and not message.content else '
' }}{{ call.function | tojson }}{% endfor %}{{ eos_token }}

{% else %}### {{ message.role | capitalize }}:
{{ message.content | trim }}

{% endif %}{% endfor %}{% if add_generation_prompt %}### Assistant:
{% endif %}"""


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `stop` of a conversation; they belong to `message`, None for the words of an opener."""

    start: int
    stop: int
    message: int | None


@dataclass(frozen=True)
class Rendering:
    """A conversation as tokens. `answers` are the assistant's words without opener, `others` everything else."""

    input_ids: list[int]
    answers: tuple[Span, ...]
    others: tuple[Span, ...]
    method: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Renderer:
    """A tokenizer with its template, resolved once per row: `ids(count)` are the tokens of the first messages."""

    tokenizer: Any
    template: str
    messages: tuple[dict[str, Any], ...]
    tools: list[dict[str, Any]] | None
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def ids(self, count: int, *, opener: bool = False) -> list[int]:
        """Token ids of the first `count` messages, with the assistant's opener after them if asked for."""
        return list(self._apply(self.messages[:count], add_generation_prompt=opener)["input_ids"])

    def tagged(self) -> tuple[list[int], list[int]]:
        """Token ids of all messages and the 0/1 mask that the template's generation tags give."""
        out = self._apply(self.messages, return_assistant_tokens_mask=True)
        return list(out["input_ids"]), list(out["assistant_masks"])

    def _apply(self, messages: Sequence[dict[str, Any]], **options: Any) -> Any:
        return self.tokenizer.apply_chat_template(
            list(messages),
            tools=self.tools,
            chat_template=self.template,
            tokenize=True,
            return_dict=True,
            **options,
            **self.extra,
        )


def renderer(
    messages: Sequence[Message], tokenizer: Any, *, tools: Sequence[Mapping[str, Any]] | None, template: str | None
) -> Renderer:
    """Return the template that is used, with the messages in the shape it reads."""
    if template is None and not tokenizer.chat_template:
        template = PLAIN_TEMPLATE
    listed = [dict(tool) for tool in tools] if tools else None
    text = tokenizer.get_chat_template(template, listed)
    notes = ("tools_not_rendered",) if listed and "tools" not in text else ()
    ready = tuple(_as_template_message(message, text) for message in messages)
    opening = tokenizer.bos_token if _adds_bos(tokenizer) else ""
    return Renderer(tokenizer, text, ready, listed, notes, {"opening_bos": opening} if text == PLAIN_TEMPLATE else {})


def _adds_bos(tokenizer: Any) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]


def _as_template_message(message: Message, template: str) -> dict[str, Any]:
    """One message in the shape the template reads; what it has no field for goes into the content as text."""
    content = message.content
    ready: dict[str, Any] = {"role": message.role}
    calls = [dict(call) for call in tool_calls(message.tool_calls, f"the {message.role}'s message")]
    if message.reasoning and "reasoning_content" not in template and "thinking" not in template:
        content = f"<think>\n{message.reasoning}\n</think>\n\n{content}"
    elif message.reasoning:
        ready["reasoning_content"] = message.reasoning
    if calls and "tool_calls" in template:
        ready["tool_calls"] = calls
    elif calls:
        text = "\n".join(json.dumps(call["function"], ensure_ascii=False) for call in calls)
        content = f"{content}\n{text}" if content else text
    return {**ready, "content": content}


def render(source: Renderer) -> Rendering:
    """Tokens and spans of a conversation: by generation tags where the template has them, else by prefix difference.

    Raises:
        BadRow: If the template refuses the conversation, or the spans are unknown because the rendering of the first
            messages is not the beginning of the rendering of all, token by token.
    """
    try:
        if GENERATION_TAG.search(source.template) and (tagged := _by_tags(source)) is not None:
            return tagged
        full = source.ids(len(source.messages))
    except BadRow:
        raise
    except Exception as error:  # templates raise whatever they like: TemplateError, TypeError, UndefinedError
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        detail = f"the chat template refuses it: {reason}; write it as the template expects"
        raise BadRow("template-error", detail) from error
    answers = tuple(_answer(source, full, k) for k, m in enumerate(source.messages) if m["role"] == "assistant")
    return Rendering(full, answers, _others(source, full, answers), "prefix difference", source.notes)


def _by_tags(source: Renderer) -> Rendering | None:
    """None where the tags do not give one run of tokens per assistant message, so that their owner is unknown."""
    full, mask = source.tagged()
    edges = [i for i in range(len(mask) + 1) if (mask[i] if i < len(mask) else 0) != (mask[i - 1] if i else 0)]
    turns = [k for k, message in enumerate(source.messages) if message["role"] == "assistant"]
    if len(edges) != 2 * len(turns):
        return None
    answers = tuple(Span(edges[2 * j], edges[2 * j + 1], k) for j, k in enumerate(turns))
    return Rendering(full, answers, _others(source, full, answers), "generation tags", source.notes)


def _answer(source: Renderer, full: list[int], k: int) -> Span:
    """Tokens that message k adds after the opener. The rendering up to either end must begin that of the whole."""
    start = _prefix(source, full, k, opener=True) if k else _first_opener(source, full)
    stop = len(full) if k + 1 == len(source.messages) else _prefix(source, full, k + 1)
    if start is None or stop is None or stop < start:
        side = "the prompt before" if start is None else "the conversation up to"
        raise BadRow(
            "prefix-broken",
            f"the tokens of {side} message {k} are not the beginning of the whole conversation's, "
            "so the start of the answer is unknown (templates that drop earlier thinking do this); "
            "use a template with {% generation %} tags, or split the conversation",
        )
    return Span(start, stop, k)


def _first_opener(source: Renderer, full: list[int]) -> int | None:
    """Where the words begin if the first message is the assistant's. No template renders an empty conversation, so
    the opener is taken from behind the message and looked up before it."""
    try:
        opener = source.ids(1, opener=True)[len(source.ids(1)) :]
    except Exception:  # as in _prefix
        return None
    starts = range(int(full[:1] == [source.tokenizer.bos_token_id]), len(full) - len(opener) + 1)
    at = next((i for i in starts if full[i : i + len(opener)] == opener), None)
    return None if at is None else at + len(opener)


def _prefix(source: Renderer, full: list[int], count: int, *, opener: bool = False) -> int | None:
    """Number of tokens of the first messages, None if they are not the beginning of `full`."""
    try:
        part = source.ids(count, opener=opener)
    except Exception:  # e.g. a template that wants a user message after the system's
        return None
    return len(part) if full[: len(part)] == part else None


def _others(source: Renderer, full: list[int], answers: tuple[Span, ...]) -> tuple[Span, ...]:
    """Owners of the tokens between the answers; openers have none."""
    spans: list[Span] = []
    at, first = 0, 0
    count = len(source.messages)
    for start, stop, turn in [*((a.start, a.stop, a.message or 0) for a in answers), (len(full), len(full), count)]:
        cut, last = None, None
        for last in range(first, turn):
            # A template that joins two messages has no boundary here: the later one gets both.
            cut = _prefix(source, full, last + 1)
            if cut is not None and at < cut <= start:
                spans.append(Span(at, cut, last))
                at = cut
        if start > at:
            spans.append(Span(at, start, last if cut is None else None))
        at, first = stop, turn + 1
    return tuple(spans)
