"""Conversations as tokens: whose words each token belongs to, and what of the conversation is not there."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

from sftloss.data.examples import Message
from sftloss.data.reasons import BadRow, excerpt
from sftloss.data.rendering.adaptations import adaptations
from sftloss.data.rendering.cures import cure_of
from sftloss.data.rendering.limits import MOST
from sftloss.data.rendering.marks import JOINER, Marks, Piece, Place, Style, dressed
from sftloss.data.rendering.template import GENERATION_TAG, Shown, Template, Tools, common

TAGS, POSITIONS = "generation tags", "positions"
_NOUNS = {"reasoning": "reasoning", "call": "tool call", "argument": "tool call"}
_THINK_BLOCK = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_CLOSE = re.compile(r"\s*(?:<[^<>]*>|\[/[A-Z_]+\])\s*")
_TEXTS = {"tool": "result"}


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `stop` of a conversation: the words of `message`. `end` is the token that ends its turn."""

    start: int
    stop: int
    message: int
    end: int | None = None


@dataclass(frozen=True)
class Rendering:
    """A conversation as tokens; what is in no span is the template's own.

    Attributes:
        messages: Those that were rendered: the conversation's own, or what `adaptations` made of them.
        input_ids: The tokens.
        spans: The words of messages.
        method: How the trained tokens of answers were found.
        notes: What is not rendered, or rendered otherwise.
        thoughts: The reasoning in answers, with its tags.
    """

    messages: Sequence[Message]
    input_ids: list[int]
    spans: tuple[Span, ...]
    method: str
    notes: tuple[str, ...]
    thoughts: tuple[tuple[int, int], ...]


def render(template: Template, messages: Sequence[Message], tools: Tools = None) -> Rendering:
    """Render a conversation and find the tokens of each message by their position.

    The words of every message are marked, rendered and looked up. An answer begins behind the template's generation
    prompt, or as much of it as stands there, and ends with the first end-of-turn token behind its last word. A
    conversation that the template refuses is written in another shape (`adaptations`) if it takes that one.

    Raises:
        BadRow: If the template refuses the conversation, a part of a trained answer is not in what it renders, or the
            start of an answer is unknown. The detail names a cure that was tried.
    """
    messages = [_without_end(message, template) for message in messages]
    try:
        return _rendering(template, messages, tools)
    except BadRow as fault:
        try:
            return _adapted(template, messages, tools, fault)
        except BadRow:
            cure = cure_of(template, messages, tools, fault, _any)
            raise BadRow(fault.reason, f"{fault.detail}; {cure}", fault.message) from fault


def _without_end(message: Message, template: Template) -> Message:
    """The message; of an answer without the end token in its text, which the template writes itself."""
    text = message.content.rstrip()
    ends = [end for end in template.frame.ends if text.endswith(end) and end in template.tokenizer.all_special_tokens]
    if message.role != "assistant" or not ends:
        return message
    return replace(message, content=text.removesuffix(ends[0]))


def _any(template: Template, messages: Sequence[Message], tools: Tools) -> Rendering:
    """The rendering of a conversation as it is, or as an adaptation of it."""
    try:
        return _rendering(template, messages, tools)
    except BadRow as fault:
        return _adapted(template, messages, tools, fault)


def _adapted(template: Template, messages: Sequence[Message], tools: Tools, fault: BadRow) -> Rendering:
    """The rendering of the first adaptation that the template takes; the fault where it takes none."""
    ways = adaptations(messages, template.style(messages)) if fault.reason == "template-error" else ()
    for one in ways:
        with suppress(BadRow):
            rendering = _rendering(template, one.messages, tools, one.as_user)
            return replace(rendering, notes=(*rendering.notes, f"adapted: {one.sentence}"))
    raise fault


def _rendering(
    template: Template, messages: Sequence[Message], tools: Tools, as_user: frozenset[str] | None = None
) -> Rendering:
    style = replace(template.style(messages), as_user=as_user)
    try:
        _ = template.frame  # known before it is needed to look for words
        shown = template.show(messages, tools, style)
    except Exception as error:  # templates raise whatever they like: TemplateError, TypeError, UndefinedError
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise BadRow("template-error", f"the chat template refuses it: {reason}") from error
    if len(shown.text) > MOST + 10 * sum(len(piece.text) for piece in shown.pieces):
        raise BadRow("template-error", f"the chat template makes {len(shown.text):,} characters of it")
    notes = list(_lost(messages, shown))
    if tools and not all(_name(tool) in shown.scaffold for tool in tools):
        notes.append("tools_not_rendered")
    if style.calls == "text" and any(message.tool_calls for message in messages):
        notes.append("calls_as_text")
    parts = _parts(template, messages, tools, style, shown, notes)
    input_ids, stops = template.tokens(shown.text)
    spans, method = tuple(_span(part, stops) for part in parts), POSITIONS
    answers = [
        (piece, _tokens(place, stops))
        for piece, place in zip(shown.pieces, shown.places, strict=True)
        if place is not None and messages[piece.message].role == "assistant"
    ]
    if GENERATION_TAG.search(template.text(tools)):
        plain = dressed(messages, style, Marks(None))
        out = template.apply(plain, tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        mask = list(out["assistant_masks"])
        trained = [slice(*place) for piece, place in answers if _is_trained(messages[piece.message])]
        if list(out["input_ids"]) == input_ids and all(all(mask[place]) for place in trained):
            spans, method = tuple(_tagged(template, messages, (input_ids, mask), spans)), TAGS
            if any(span.end is not None and not mask[span.end] for span in spans if _is_answer(messages, span)):
                notes.append("no_end_token")
            is_whole = not any(note.startswith("opener_differs") for note in notes)
            if is_whole and any(mask[s.start] and mask[s.start - 1] for s in spans if _is_answer(messages, s)):
                notes.append("opener_in_tags")
    thoughts = tuple(_tokens(block, stops) for block in _blocks(messages, shown, parts))
    return Rendering(messages, input_ids, spans, method, tuple(dict.fromkeys(notes)), thoughts)


def _name(tool: Mapping[str, Any]) -> str:
    function = tool.get("function")
    return str((function if isinstance(function, Mapping) else tool).get("name", ""))


def _is_trained(message: Message) -> bool:
    return message.weight != 0 if message.weight is not None else message.role == "assistant"


def _is_answer(messages: Sequence[Message], span: Span) -> bool:
    return messages[span.message].role == "assistant" and span.start > 0


def _lost(messages: Sequence[Message], shown: Shown) -> Iterator[str]:
    """A note for what is not rendered; BadRow where it is a part of an answer that is trained."""
    for piece in shown.lost:
        message = messages[piece.message]
        noun = _NOUNS.get(piece.kind) or _TEXTS.get(message.role, "text")
        if message.role == "assistant" and _is_trained(message):
            other = shown.other(piece)
            does = f"writes {excerpt(other, 30)} for" if other else "leaves out"
            raise BadRow(
                "content-lost",
                f"the chat template {does} the {noun} of message {piece.message + 1} ({excerpt(piece.text, 30)}), "
                "a part of a trained answer",
                piece.message,
            )
        yield f"lost: {noun} of the {message.role}"


@dataclass(frozen=True)
class _Part:
    """The words of a message in the text, with its end: characters."""

    message: int
    start: int
    stop: int
    has_end: bool


def _parts(
    template: Template, messages: Sequence[Message], tools: Tools, style: Style, shown: Shown, notes: list[str]
) -> list[_Part]:
    """The messages in the order of the text, each with its words and its end."""
    pairs = ((place, piece) for piece, place in zip(shown.pieces, shown.places, strict=True) if place is not None)
    placed = sorted(pairs, key=lambda pair: pair[0])
    groups = [(number, list(group)) for number, group in groupby(placed, key=lambda pair: pair[1].message)]

    def prompt(number: int, at: int, first: tuple[Place, Piece]) -> tuple[int, str] | None:
        """As `Frame.start`, by rendering the messages before an answer; None where the text does not begin so."""
        for opens in (True, False) if first[1].kind == "call" else (True,):  # a call may go on in a turn
            with suppress(Exception):  # a template may refuse a part of a conversation
                parts = dressed(messages[:number], style, Marks(None))
                before = template.apply(parts, tools, add_generation_prompt=opens)
                if at <= len(before) <= first[0][0] and shown.text.startswith(before):
                    return len(before) - at, "" if opens else template.frame.opener
        return None

    numbers = [number for number, _ in groups]
    if numbers != sorted(set(numbers)):
        notes.append("moved")
        spoken = [(i, n, messages[n]) for i, n in enumerate(numbers) if messages[n].role == "assistant"]
        trained = [(i, n) for i, n, message in spoken if _is_trained(message)]
        if any(later < n and messages[later].role == "user" for i, n in trained for later in numbers[i + 1 :]):
            notes.append("lost: text of the user, which stands behind its answer")
    for i, number in enumerate(numbers):
        if number in numbers[:i] and _is_trained(messages[number]):
            raise BadRow(
                "prefix-broken",
                f"the chat template writes words of message {number + 1} behind those of message {numbers[i - 1] + 1}",
                number,
            )
    edges = [group[0][0][0] for _, group in groups[1:]] + [len(shown.text)]
    parts: list[_Part] = []
    at = 0
    for (number, group), edge in zip(groups, edges, strict=True):
        start, stop = group[0][0][0], max(place[1] for place, _ in group)
        tail = shown.text[stop:edge]
        end = template.frame.end(tail)
        if messages[number].role == "assistant":
            start = at + _start(
                template, messages, number, shown.text[at:start], notes, partial(prompt, number, at, group[0])
            )
            close, has_end = (end[1], True) if end else (0, False)
            if group[-1][1].kind in ("call", "argument"):
                of_call = template.close_of_call(tail)
                if of_call[0] and (not has_end or of_call[0] < close):  # that end may be of a result without words
                    close, has_end = of_call
            goes_on = (
                messages[number + 1 : number + 2] and messages[number + 1].role == "assistant" and not tail.strip()
            )
            if not (has_end or goes_on):
                notes.append("no_end_token")
            parts.append(_Part(number, start, stop + close, has_end))
        elif end and not tail[: end[0]].strip():
            parts.append(_Part(number, start, stop + end[1], has_end=True))
        else:  # words of the template between the message's own and their end
            parts.append(_Part(number, start, stop, has_end=False))
            parts += [_Part(number, stop + end[0], stop + end[1], has_end=True)] if end else []
        at = parts[-1].stop
    answers = sum(messages[part.message].role == "assistant" for part in parts)
    if answers > 1 and template.frame.join:
        notes.append(f"join_differs: {' and '.join(map(excerpt, template.frame.join))}")
    return parts


def _start(
    template: Template, messages: Sequence[Message], number: int, gap: str, notes: list[str], prompt: Callable[[], Any]
) -> int:
    """Where an answer begins in the text between the last word before it and its own first word."""
    before = messages[number - 1].role if number else ""
    if before == "assistant" and not gap.strip():  # an answer that goes on in the same turn
        return 0 if gap == JOINER else len(gap)
    opener = (template.result_prompt or "") if before == "tool" else ""
    opens, found = template.frame.opener, (len(opener), "") if opener and gap.startswith(opener) else None
    is_empty = number > 0 and before != "assistant" and not messages[number - 1].content.strip()
    begin = found or (prompt() if is_empty else None)  # the gap holds all of a message without words, not its end
    if begin and opens and gap.startswith(opens, begin[0]):  # the turn is opened anew, though no prompt ends so
        begin = (begin[0] + len(opens), "")
    begin = begin or template.frame.start(gap)
    if begin is None and (shared := common(opener, gap)):  # results inside the turn of the assistant
        return shared
    begin = begin or prompt()  # openers that differ, as by a number
    if not (number or opens):  # the conversation begins with an answer
        begin = begin or (len(gap.rpartition(">")[0]) + 1 if ">" in gap else 0, "")
    if begin is None:
        raise BadRow(
            "prefix-broken",
            f"answer {number + 1} is opened by {excerpt(gap, 60)}, where a prompt ends with {excerpt(opens, 60)}",
            number,
        )
    if begin[1].strip() or (begin[1] and gap[begin[0] :].strip()):
        notes.append(f"opener_differs: {excerpt(begin[1].strip() or begin[1], 40)}")
    return begin[0]


def _blocks(messages: Sequence[Message], shown: Shown, parts: Sequence[_Part]) -> Iterator[Place]:
    """The reasoning in answers, with the tags around each block and the whitespace behind it, in the order of the text.

    A block begins where the answer begins, or behind the words before it, for only its tag can stand between.
    """
    by_message: dict[int, list[tuple[Place, str]]] = {}
    for piece, place in zip(shown.pieces, shown.places, strict=True):
        if place is not None:
            by_message.setdefault(piece.message, []).append((place, piece.kind))
    for part in parts:
        if messages[part.message].role != "assistant":
            continue
        placed = sorted(by_message[part.message])
        tagged = [match.span() for match in _THINK_BLOCK.finditer(shown.text, part.start, part.stop)]
        content = messages[part.message].content.lstrip()
        if content.startswith("<think>") and "</think>" not in content:  # cut off while it thinks
            tagged.append((part.start, part.stop))
        if (close := _CLOSE.match(shown.text, part.start, part.stop)) and "</think>" in close[0]:
            tagged.append(close.span())  # the generation prompt has opened a block, which is empty
        edges = [part.start, *(place[1] for place, _ in placed)]
        for (place, kind), edge in zip(placed, edges, strict=False):
            if kind == "reasoning":
                close = _CLOSE.match(shown.text, place[1], part.stop)
                opened = shown.text.rfind("<think>", edge, place[0])
                tagged.append((max(edge, opened), close.end() if close else place[1]))
        stop = part.start
        for first, last in sorted(tagged):
            if last > max(stop, first):
                yield max(stop, first), last
                stop = last


def _tokens(place: Place, stops: Sequence[int]) -> tuple[int, int]:
    """The tokens whose last character is in a place."""
    return bisect_right(stops, place[0]), bisect_right(stops, place[1])


def _span(part: _Part, stops: Sequence[int]) -> Span:
    start, stop = _tokens((part.start, part.stop), stops)
    return Span(start, stop, part.message, stop - 1 if part.has_end else None)


def _tagged(
    template: Template, messages: Sequence[Message], masked: tuple[list[int], list[int]], spans: Sequence[Span]
) -> Iterator[Span]:
    """The spans of the answers as far as the mask goes, and an end that only the mask has."""
    ids, mask = masked
    edges = [span.start for span in spans[1:]] + [len(ids)]
    for span, edge in zip(spans, edges, strict=True):
        if not _is_answer(messages, span):
            yield span
            continue
        stop, end = span.stop, span.end
        while end is None and stop < edge and mask[stop]:
            stop += 1
        if end is None and ids[stop - 1] in template.special:
            end = stop - 1
        for value, group in groupby(range(span.start, stop), key=mask.__getitem__):
            run = list(group)
            if value:
                yield Span(run[0], run[-1] + 1, span.message, end)
