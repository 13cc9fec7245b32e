"""What a chat template puts around messages, learned by rendering it, so that turns can be found in any row's tokens.

Labels do not show whose words a token belongs to. What the template puts in front of messages does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sftloss.data.examples import Message
from sftloss.data.rendering.template import ASK, GENERATION_TAG, TELL, Template, common
from sftloss.data.tokenizer import eos_ids
from sftloss.roles import PROMPT, RESPONSE, SYSTEM


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
            fitting = (one for one in self.openers if tuple(ids[i : i + len(one.tokens)]) == one.tokens)
            if token in firsts and i >= at and (opener := next(fitting, None)) is not None:
                at = i + len(opener.tokens)
                openers.append((opener.role, i, at))
        if RESPONSE not in {role for role, _, _ in openers}:
            return ()
        stops = [*(opener for _, opener, _ in openers[1:]), len(ids)]
        return tuple(
            Turn(role, opener, start, self._stop(ids, start, stop))
            for (role, opener, start), stop in zip(openers, stops, strict=True)
        )

    def _stop(self, ids: Sequence[int], start: int, stop: int) -> int:
        """A turn stops after its end token: a turn whose opener was not recognised may follow."""
        return next((i + 1 for i in range(start, stop) if ids[i] in self.ends), stop)


def scaffold_of(template: Template) -> Scaffold:
    """Learn the scaffold from short conversations, once; what the template refuses stays unknown."""
    if "scaffold" not in template.learned:
        known = {str(template.tokenizer.decode([i])): i for i in template.special}
        ends = eos_ids(template.tokenizer) | {known[end] for end in template.frame.ends if end in known}
        tags = bool(GENERATION_TAG.search(template.text()))
        template.learned["scaffold"] = Scaffold(_openers(template), ends, template.special, not template.is_plain, tags)
    scaffold: Scaffold = template.learned["scaffold"]
    return scaffold


def _openers(template: Template) -> tuple[Opener, ...]:
    """The openers, from two questions with answers; empty where they are not clear."""
    told, bound = template.probe(ASK, TELL, ASK, TELL), template.probe(Message("system", "s"), ASK, TELL)
    if told is None or None in told.places:
        return ()
    places, frame = [place for place in told.places if place], template.frame
    # the first answer, because some templates put an empty thought in front of the last
    answer = told.text[places[0][1] : places[1][0]]
    again = told.text[places[1][1] : places[2][0]]
    end = frame.end(again)
    headers = {
        RESPONSE: answer[common(frame.after, answer) :] if frame.opener else answer,
        PROMPT: again[end[1] if end else 0 :].lstrip(),
    }
    if bound is not None and bound.places[0] is not None:
        headers[SYSTEM] = bound.text[: bound.places[0][0]].removeprefix(template.tokenizer.bos_token or "")
    ids = {role: template.tokenizer(text, add_special_tokens=False)["input_ids"] for role, text in headers.items()}
    openers = [Opener(role, tuple(of)) for role, of in ids.items() if of]
    clear = [one for one in openers if len(one.tokens) > 1 or one.tokens[0] in template.special]
    is_known = {PROMPT, RESPONSE} <= {one.role for one in clear} and len({one.tokens for one in clear}) == len(clear)
    return tuple(sorted(clear, key=lambda one: -len(one.tokens))) if is_known else ()


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
