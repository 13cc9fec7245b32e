"""What a chat template puts around messages, learned by rendering it, so that turns can be found in any row's tokens.

Labels, and masks from a template's own tags, do not show whose words a token belongs to. The template does:
conversations that differ in one message show where its words start and stop, and what stands between messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sftloss.data.examples import Message
from sftloss.data.reasons import BadRow
from sftloss.data.rendering.render import render
from sftloss.data.rendering.template import GENERATION_TAG, Template
from sftloss.data.tokenizer import eos_ids
from sftloss.roles import PROMPT, RESPONSE, SYSTEM

# two words for each message with nothing in common, so that their first and last tokens differ; letters, because most
# tokenizers join a space to a letter after it, as they do in real answers, and not to a digit
_WORDS = (("a", "q"), ("i", "x"), ("o", "w"), ("u", "k"))


@dataclass(frozen=True)
class Turn:
    """One message in a row's tokens: its opener starts at `opener`, its words are ``[start, stop)``.

    The token that ends an assistant's turn is among its words.
    """

    role: int
    opener: int
    start: int
    stop: int


class Opener(NamedTuple):
    """The tokens in front of the words of a role."""

    role: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Scaffold:
    """What a tokenizer's conversations look like.

    Attributes:
        openers: Role code and the tokens in front of its words, longest first; empty where they are unknown.
        ends: Tokens that end an assistant's turn or the sequence.
        special: All special tokens.
        has_template, has_tags: Whether there is a chat template, and whether it marks the assistant's words.
    """

    openers: tuple[Opener, ...]
    ends: frozenset[int]
    special: frozenset[int]
    has_template: bool
    has_tags: bool

    def turns(self, ids: Sequence[int]) -> tuple[Turn, ...]:
        """The messages of a row, in order; empty where no opener of an answer is found."""
        firsts = {opener.tokens[0] for opener in self.openers}
        openers: list[tuple[int, int, int]] = []
        at = 0
        for i, token in enumerate(ids):
            if token in firsts and i >= at and (opener := self._opener_at(ids, i)) is not None:
                at = i + len(opener.tokens)
                openers.append((opener.role, i, at))
        if RESPONSE not in {role for role, _, _ in openers}:
            return ()
        stops = [*(opener for _, opener, _ in openers[1:]), len(ids)]
        return tuple(
            Turn(role, opener, start, self._stop(ids, start, stop))
            for (role, opener, start), stop in zip(openers, stops, strict=True)
        )

    def _opener_at(self, ids: Sequence[int], i: int) -> Opener | None:
        return next((one for one in self.openers if tuple(ids[i : i + len(one.tokens)]) == one.tokens), None)

    def _stop(self, ids: Sequence[int], start: int, stop: int) -> int:
        """A turn stops after its end token: a turn whose opener was not recognised may follow."""
        return next((i + 1 for i in range(start, stop) if ids[i] in self.ends), stop)


def scaffold_of(template: Template) -> Scaffold:
    """Learn the scaffold from five short conversations, once; what the template refuses stays unknown."""
    if "scaffold" not in template.learned:
        openers, ends = _learn(template)
        ends, tags = eos_ids(template.tokenizer) | ends, bool(GENERATION_TAG.search(template.text()))
        template.learned["scaffold"] = Scaffold(openers, ends, template.special, not template.is_plain, tags)
    scaffold: Scaffold = template.learned["scaffold"]
    return scaffold


def _learn(template: Template) -> tuple[tuple[Opener, ...], frozenset[int]]:
    """The openers, and the token that ends an answer."""
    words = [pair[0] for pair in _WORDS]
    base = _tokens(template, words)
    if base is None:
        return (), frozenset()
    spans = []
    for k, (_, other) in enumerate(_WORDS):
        changed = _tokens(template, [*words[:k], other, *words[k + 1 :]])
        if changed is None:
            return (), frozenset()
        start = _common(base, changed)
        spans.append((start, max(start, len(base) - _common(base[::-1], changed[::-1]))))
    # the first answer, because some templates put an empty thought in front of the last
    (_, after_prompt), (answer, after_answer), (second_prompt, _), (_, after_last) = spans
    tail = base[after_last:]
    ends = frozenset([token for token in tail if token in template.special][:1])
    openers = [
        Opener(RESPONSE, _without(tail, base[after_prompt:answer])),
        Opener(PROMPT, _without(tail, base[after_answer:second_prompt])),
        *_system(template, words),
    ]
    clear = [one for one in openers if len(one.tokens) > 1 or (one.tokens and one.tokens[0] in template.special)]
    is_known = {PROMPT, RESPONSE} <= {one.role for one in clear} and len({one.tokens for one in clear}) == len(clear)
    return tuple(sorted(clear, key=lambda one: -len(one.tokens))) if is_known else (), ends


def _system(template: Template, words: list[str]) -> list[Opener]:
    one, two = (_tokens(template, words, system=word) for word in ("5", "h"))
    plain = _tokens(template, words)
    if one is None or two is None or plain is None or len(one) <= len(plain):
        return []
    head = one[: _common(one, two)]
    bos = template.tokenizer.bos_token_id
    return [Opener(SYSTEM, tuple(head[1:] if head[:1] == [bos] else head))]


def _tokens(template: Template, words: Sequence[str], system: str | None = None) -> list[int] | None:
    spoken = [Message("assistant" if i % 2 else "user", word) for i, word in enumerate(words)]
    head = [] if system is None else [Message("system", system)]
    try:
        return render(template, [*head, *spoken]).input_ids
    except BadRow:
        return None


def _common(one: Sequence[int], two: Sequence[int]) -> int:
    """Length of the common beginning."""
    same = 0
    while same < min(len(one), len(two)) and one[same] == two[same]:
        same += 1
    return same


def _without(tail: list[int], bridge: list[int]) -> tuple[int, ...]:
    """What stands between two messages, less the end of the first."""
    return tuple(bridge[_common(tail, bridge) :])


def roles_of(turns: Sequence[Turn], is_trained: Sequence[bool], room: int) -> list[int]:
    """The role of each token by the turns it is in; the template's own words are the prompt's.

    Up to `room` trained tokens behind the end of an answer, a line break as a rule, are a part of it.
    """
    roles = [PROMPT] * len(is_trained)
    for turn, after in zip(turns, (*(turn.opener for turn in turns[1:]), len(roles)), strict=True):
        stop = turn.stop
        while turn.role == RESPONSE and stop < min(after, turn.stop + room) and is_trained[stop]:
            stop += 1
        roles[turn.start : stop] = [turn.role] * (stop - turn.start)
    return roles
