"""A tokenizer's chat template: what it reads of a message, and what it puts around messages, learned by rendering it.

Only `tokenizer.apply_chat_template` renders. It is sandboxed; plain Jinja on a model's template is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product, takewhile
from typing import Any

from sftloss.data.examples import Message
from sftloss.data.rendering.families import read_template
from sftloss.data.rendering.limits import SECONDS, runs_away, within
from sftloss.data.rendering.marks import THOUGHTS, Marks, Piece, Place, Style, dressed, free_block, search, spellings
from sftloss.data.tokenizer import special_ids

GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")

# For tokenizers without a template: headings instead of new special tokens, each answer closed by eos. Content is
# trimmed because whitespace at its start would merge with the newline of the opener.
PLAIN_TEMPLATE = """{{ opening_bos }}{% if tools %}### Tools:
{{ tools | tojson }}

{% endif %}{% for message in messages %}{% if message.role == 'assistant' %}### Assistant:
{{ message.content | trim }}{% for call in message.tool_calls or [] %}{{ '' if loop.first and not message.content else '
' }}{{ call.function | tojson }}{% endfor %}{{ eos_token }}

{% else %}### {{ message.role | capitalize }}:
{{ message.content | trim }}

{% endif %}{% endfor %}{% if add_generation_prompt %}### Assistant:
{% endif %}"""

TAKEN = frozenset({"messages", "conversation", "tools", "chat_template", "add_generation_prompt", "tokenize"}) | {
    "continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens",
}  # fmt: skip
"""Arguments of `apply_chat_template`, which cannot be variables of a template."""

Tools = Sequence[Mapping[str, Any]] | None

ASK, TELL = Message("user", "q"), Message("assistant", "a")
_CALL = Message("assistant", "", tool_calls=({"id": "abcdefghi", "function": {"name": "f", "arguments": {"k": "v"}}},))
_RESULT = Message("tool", "r", extra={"tool_call_id": "abcdefghi", "name": "f"})
_PARAMETERS = {"type": "object", "properties": {"k": {"type": "string", "description": "d"}}, "required": ["k"]}
_TOOLS = ({"type": "function", "function": {"name": "f", "description": "d", "parameters": _PARAMETERS}},)
_MOST_WAITING = 16  # tokens of one character, and those that a tokenizer wrote otherwise
_STYLES = tuple((calls, empty) for calls in ("object", "string") for empty in (True, False))
# the smallest parts in which two renderings may differ: a tag, a word, one other character
_PART = re.compile(r"<[^<>\s]*>|\[/?[A-Z_]+\]|\w+|\s|.", re.DOTALL)


@dataclass(frozen=True)
class Shown:
    """A rendering without its marks, and where each piece stands in it."""

    text: str
    pieces: tuple[Piece, ...]
    places: tuple[Place | None, ...]

    @property
    def scaffold(self) -> str:
        """The template's own words."""
        edges = [edge for place in sorted(place for place in self.places if place) for edge in place]
        return "".join(self.text[a:b] for a, b in zip([0, *edges[1::2]], [*edges[::2], len(self.text)], strict=True))

    def other(self, piece: Piece) -> str:
        """What stands in the place of a piece whose words are not there."""
        places = (place for one, place in zip(self.pieces, self.places, strict=True) if one is piece and place)
        return next((self.text[slice(*place)].strip() for place in places), "")

    @property
    def lost(self) -> Iterator[Piece]:
        """Pieces that are not in the text, or not as they were."""
        for piece, place in zip(self.pieces, self.places, strict=True):
            if not piece.text.strip():  # an empty thought: templates trim
                continue
            if piece.is_marked:
                is_there = place is not None and any(way in self.text[slice(*place)] for way in spellings(piece.text))
            else:  # a name, a number, a truth value or nothing: as JSON, as Python
                is_there = any(way in self.text for way in (*spellings(piece.text), piece.text.capitalize()))
            if not is_there:
                yield piece


@dataclass(frozen=True)
class Frame:
    """What a template puts around the words of messages.

    Attributes:
        opener: The generation prompt: what follows the words of a user, and their end, before an answer.
        after: What follows the words of a user that is not the generation prompt.
        header: What precedes the words of the first user.
        ends: Texts that end an answer; special tokens where there are some.
        join: The ends of an answer in the middle and at the end of a conversation, where they differ.
    """

    opener: str
    after: str
    header: str
    ends: tuple[str, ...]
    join: tuple[str, str] | None

    def start(self, gap: str) -> tuple[int, str] | None:
        """Where an answer begins in what stands before its first word, and the part of the opener that is missing."""
        parts = _PART.findall(self.opener)
        for count in range(len(parts), 0, -1):
            beginning = "".join(parts[:count])
            if not beginning.strip() or (beginning in self.header and count < len(parts)):
                break
            if (at := gap.rfind(beginning)) >= 0:
                return at + len(beginning), "".join(parts[count:])
        if self.opener:
            return None
        at = gap.find(self.after)
        return (at + len(self.after), "") if at >= 0 else None

    def end(self, gap: str) -> Place | None:
        """The place of the first end in what stands behind the last word."""
        return min(((at, at + len(end)) for end in self.ends if (at := gap.find(end)) >= 0), default=None)


class Template:
    """A chat template of a tokenizer with its keyword arguments; what is learned about it is kept.

    Args:
        tokenizer: A transformers tokenizer.
        template: In place of the tokenizer's default: Jinja text, a file, or a name in TRL or of the tokenizer.
        kwargs: Variables for the template, as ``{"enable_thinking": False}``.
    """

    def __init__(self, tokenizer: Any, template: str | None = None, kwargs: Mapping[str, Any] | None = None) -> None:
        self.tokenizer, self.kwargs = tokenizer, dict(kwargs or {})
        self.is_plain = template is None and not tokenizer.chat_template
        self._template = PLAIN_TEMPLATE if self.is_plain else read_template(template, tokenizer)
        if self.is_plain:
            self.kwargs["opening_bos"] = tokenizer.bos_token if _adds_bos(tokenizer) else ""
        self.special = special_ids(tokenizer)
        self._runs_away: dict[str, str] = {}
        self.learned: dict[Any, Any] = {}  # what others learn about it
        words = sorted((str(tokenizer.decode([i])) for i in self.special), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, filter(None, words))) or "(?!)")

    def text(self, tools: Tools = None) -> str:
        """The Jinja text; a tokenizer may have one for conversations with tools."""
        return str(self.tokenizer.get_chat_template(self._template, tools))

    def apply(self, messages: Sequence[dict[str, Any]], tools: Tools = None, **options: Any) -> Any:
        """What `tokenizer.apply_chat_template` gives; it raises whatever the template raises."""
        text = self.text(tools)
        if text not in self._runs_away:
            variables = {**self.tokenizer.special_tokens_map, **self.kwargs}
            messages_tried = [{"role": message.role, "content": message.content} for message in (ASK, TELL)]
            self._runs_away[text] = runs_away(text, messages_tried, variables)
        if why := self._runs_away[text]:
            raise ValueError(why)
        options = {"tokenize": False} | options | self.kwargs
        apply = partial(self.tokenizer.apply_chat_template, list(messages), chat_template=text, **options)
        try:
            return within(10 * SECONDS, partial(apply, tools=tools))
        except TimeoutError as error:  # it is not tried on other rows
            self._runs_away[text] = f"{error} for a conversation"
            raise ValueError(self._runs_away[text]) from error
        except TypeError:
            if tools is not None:
                raise
            return within(10 * SECONDS, partial(apply, tools=[]))  # a template for tools alone, which goes through them

    def show(self, messages: Sequence[Message], tools: Tools, style: Style, **options: Any) -> Shown:
        """The messages rendered as they are. If marks change the rendering, the pieces are looked for."""
        listed, block = Marks(None, inside=True), free_block(messages)
        plain = self.apply(dressed(messages, style, listed), tools, **options)
        for inside in (False, True) if block is not None else ():
            marks = Marks(block, inside)
            marked = dressed(messages, style, marks)
            try:
                text, places = marks.read(self.apply(marked, tools, **options))
            except Exception:  # a template may compare what is marked, and raise whatever it likes
                continue
            if text == plain:
                return Shown(text, tuple(marks.pieces), tuple(places))
        headers: dict[int, Sequence[str]] = {}
        if "frame" in self.__dict__:  # while the frame is learned there are none
            asks, opener = self.frame.header, self.frame.opener
            known = {
                "user": (asks, "".join(_PART.findall(asks)[-3:])),
                "assistant": (opener, opener.split("<think>")[0]),
            }
            headers = {number: known.get(message.role, ()) for number, message in enumerate(messages)}
        return Shown(plain, tuple(listed.pieces), tuple(search(plain, listed.pieces, headers)))

    def style(self, messages: Sequence[Message]) -> Style:
        """The style for a conversation; only what it holds is tried."""
        style = Style(blocks=self._blocks)
        if any(message.reasoning for message in messages):
            style = replace(style, reasoning=self._reasoning)
        if any(message.tool_calls for message in messages):
            calls, empty = self._calls
            style = replace(style, calls=calls, empty=empty)  # type: ignore[arg-type]
        return style

    def probe(self, *messages: Message, style: Style | None = None, tools: Tools = None, opener: bool = False) -> Any:
        """A small conversation, None where the template refuses it."""
        try:
            return self.show(messages, tools, style or Style(blocks=self._blocks), add_generation_prompt=opener)
        except Exception:  # templates raise whatever they like: TemplateError, TypeError, UndefinedError
            return None

    def _shows(self, *messages: Message, style: Style, tools: Tools = None) -> bool:
        shown = self.probe(*messages, style=style, tools=tools)
        return shown is not None and not any(shown.lost)

    @cached_property
    def _blocks(self) -> bool:
        return not self._shows(ASK, TELL, style=Style()) and self._shows(ASK, TELL, style=Style(blocks=True))

    @cached_property
    def _reasoning(self) -> tuple[str, ...]:
        """The field that the template reads reasoning from: one if that is enough, none if it reads none."""
        fields = (*((name,) for name in THOUGHTS), THOUGHTS)
        answer = replace(TELL, reasoning="t")
        return next((of for of in fields if self._shows(ASK, answer, style=Style(self._blocks, reasoning=of))), ())

    @cached_property
    def _calls(self) -> tuple[str, bool]:
        for tools, (calls, empty) in product((_TOOLS, None), _STYLES):
            style = Style(blocks=self._blocks, calls=calls, empty=empty)  # type: ignore[arg-type]
            if self._shows(ASK, _CALL, style=style, tools=tools):
                return calls, empty
        return "text", True

    @cached_property
    def result_prompt(self) -> str | None:
        """What stands between a tool's result and the answer to it; None where it is unknown."""
        style = self.style((_CALL,))
        for tools in (_TOOLS, None):
            shown = self.probe(ASK, _CALL, _RESULT, style=style, tools=tools, opener=True)
            if shown is not None and shown.places[-1] is not None:
                return str(shown.text[shown.places[-1][1] :])
        return None

    @cached_property
    def frame(self) -> Frame:
        """Learned from a question, with and without generation prompt, and from two questions with answers."""
        header, after, opener = "", "", ""
        asked, asking = self.probe(ASK), self.probe(ASK, opener=True)
        answered = self.probe(ASK, TELL, ASK, TELL) or self.probe(ASK, TELL)
        ended = asked or answered  # a template may refuse a conversation that ends with a question
        if ended and asking and ended.places[-1] and asking.places[0]:
            header, prompt = asking.text[: asking.places[0][0]], asking.text[asking.places[0][1] :]
            after = prompt[: common(ended.text[ended.places[-1][1] :], prompt)]
            opener = prompt[len(after) :]
        if answered is None or answered.places[-1] is None:
            return Frame(opener, after, header, self._ends(""), None)
        last = answered.text[answered.places[-1][1] :]
        middle = last
        if len(answered.places) == 4 and answered.places[1] and answered.places[2]:
            middle = answered.text[answered.places[1][1] : answered.places[2][0]]
            shared = middle[len(middle) - common(middle, header, backwards=True) :]
            shared = shared.removeprefix(after) if after.strip() else shared  # the end of a default system text
            middle = middle.removesuffix(shared)
        run = self._run(middle, after)
        if len(run) > 1 and "".join(run) in last:
            return Frame(opener, after, header, self._ends("".join(run), run[-1]), None)
        ends = [self._end(middle, after), self._end(last, after)]
        if not any(ends):  # no special token: what both have in common
            ends = [middle[: common(middle, last)].strip()] * 2
        return Frame(opener, after, header, self._ends(*ends), (ends[0], ends[1]) if ends[0] != ends[1] else None)

    def _run(self, tail: str, after: str) -> list[str]:
        """Special tokens that directly follow each other from the end of a turn on, each of them an end."""
        run: list[str] = []
        shared = {*self._special.findall(after), self.tokenizer.eos_token}
        at = tail.find(first) if (first := self._end(tail, after)) in shared else -1
        while at >= 0 and (match := self._special.match(tail, at)) and match[0] in shared:
            run.append(match[0])
            at = match.end()
        return run

    def _end(self, tail: str, after: str) -> str:
        """The first special token of a tail that also ends other turns or the sequence, else the first."""
        special = self._special.findall(tail)
        shared = {*self._special.findall(after), self.tokenizer.eos_token}
        return next((token for token in special if token in shared), special[0] if special else "")

    def _ends(self, *ends: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(end for end in (*ends, self.tokenizer.eos_token) if end))

    def close_of_call(self, tail: str) -> tuple[int, bool]:
        """One past what closes the last tool call of an answer behind its last word, and whether it ends the turn."""
        close = self._close_of_call
        at = tail.find(close) if close else -1
        return (at + len(close), bool(self._special.fullmatch(close))) if at >= 0 else (0, False)

    @cached_property
    def _close_of_call(self) -> str:
        """The last tag or word that the template writes behind a tool call which ends a conversation."""
        shown = self.probe(ASK, _CALL, style=self.style((_CALL,)), tools=_TOOLS)
        if shown is None or shown.places[-1] is None:
            return ""
        tail = shown.text[shown.places[-1][1] :]
        return next((part for part in reversed(_PART.findall(tail)) if part.strip()), "")

    def tokens(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids of a rendered text, and for each the number of characters up to its end."""
        if getattr(self.tokenizer, "is_fast", False):
            out = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            return list(out["input_ids"]), [stop for _, stop in out["offset_mapping"]]
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids, _stops(text, ids, self.tokenizer.decode)


def _stops(text: str, ids: Sequence[int], decode: Callable[[list[int]], str]) -> list[int]:
    """The number of characters up to the end of each token, without offsets: its decoded piece is looked up in it.

    Tokens that are parts of one character all end where it ends. Only what is not yet found is decoded, so that the
    cost is linear in the text.
    """
    stops: list[int] = []
    at, waiting = 0, list[int]()
    for token in ids:
        waiting.append(token)
        piece, begin = str(decode(waiting)), at
        while begin < len(text) and text[begin].isspace() and not text.startswith(piece, begin):
            begin += 1  # a decoder may drop the space in front
        is_found = bool(piece) and text.startswith(piece, begin)
        if is_found or len(waiting) == _MOST_WAITING:
            at = begin + len(piece) if is_found else min(len(text), at + len(piece))
            stops += [at] * len(waiting)
            waiting = []
    return [*stops, *[len(text)] * len(waiting)]


def common(one: str, two: str, *, backwards: bool = False) -> int:
    """Length of the common beginning (or end) of two texts, in whole tags and words."""
    parts = [_PART.findall(text)[:: -1 if backwards else 1] for text in (one, two)]
    return sum(len(a) for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(*parts, strict=False)))


def _adds_bos(tokenizer: Any) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
