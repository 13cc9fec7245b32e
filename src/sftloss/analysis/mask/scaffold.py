"""What a chat template puts around messages, learned by rendering it, so that turns can be found in any row's tokens.

Pre-tokenised rows and masks that a template's own tags give say nothing about whose words a token belongs to. The
template does: conversations that differ in one message show where its words start and stop, and what stands between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sftloss.data import Message, Origin, Record, RowError, encode
from sftloss.data.template import GENERATION_TAG
from sftloss.data.tokenizer import eos_ids, special_ids
from sftloss.roles import PROMPT, RESPONSE, SYSTEM

# two words each with nothing in common, so that the first and last token of a message tell the two apart;
# letters, because most tokenizers join a space to a letter after it, as they do in real answers, and not to a digit
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


@dataclass(frozen=True)
class Scaffold:
    """What is known about a tokenizer's conversations.

    Attributes:
        openers: Role code and the tokens in front of its words, longest first; empty where they cannot be told.
        ends: Tokens that end an assistant's turn or the sequence.
        special: All special tokens.
        has_template, has_tags: Whether there is a chat template, and whether it marks the assistant's words.
    """

    openers: tuple[tuple[int, tuple[int, ...]], ...]
    ends: frozenset[int]
    special: frozenset[int]
    has_template: bool
    has_tags: bool

    def turns(self, ids: Sequence[int]) -> tuple[Turn, ...]:
        """The messages of a row, in order; empty where no opener of an answer is found: then others prove nothing."""
        firsts = {opener[0] for _, opener in self.openers}
        found: list[tuple[int, int, int]] = []
        at = 0
        for i, token in enumerate(ids):
            if token in firsts and i >= at and (hit := self._opener_at(ids, i)) is not None:
                at = i + len(hit[1])
                found.append((hit[0], i, at))
        if RESPONSE not in {role for role, _, _ in found}:
            return ()
        stops = [*(opener for _, opener, _ in found[1:]), len(ids)]
        return tuple(
            Turn(role, opener, start, self._stop(ids, start, stop))
            for (role, opener, start), stop in zip(found, stops, strict=True)
        )

    def _opener_at(self, ids: Sequence[int], i: int) -> tuple[int, tuple[int, ...]] | None:
        return next((hit for hit in self.openers if tuple(ids[i : i + len(hit[1])]) == hit[1]), None)

    def _stop(self, ids: Sequence[int], start: int, stop: int) -> int:
        """A turn stops after its end token: a turn whose opener was not recognised may follow."""
        return next((i + 1 for i in range(start, stop) if ids[i] in self.ends), stop)


def scaffold_of(tokenizer: Any, template: str | None = None) -> Scaffold:
    """Learn the scaffold from five short conversations; what the template refuses stays unknown."""
    special = special_ids(tokenizer)
    text = _template_text(tokenizer, template)
    openers, ends = _learn(tokenizer, template, special)
    return Scaffold(openers, eos_ids(tokenizer) | ends, special, bool(text), bool(text and GENERATION_TAG.search(text)))


def _template_text(tokenizer: Any, template: str | None) -> str:
    if template is None and not tokenizer.chat_template:
        return ""
    return str(tokenizer.get_chat_template(template, None))


Openers = tuple[tuple[int, tuple[int, ...]], ...]


def _learn(tokenizer: Any, template: str | None, special: frozenset[int]) -> tuple[Openers, frozenset[int]]:
    words = [pair[0] for pair in _WORDS]
    base = _tokens(tokenizer, template, words)
    if base is None:
        return (), frozenset()
    spans = []
    for k, (_, other) in enumerate(_WORDS):
        changed = _tokens(tokenizer, template, [*words[:k], other, *words[k + 1 :]])
        if changed is None:
            return (), frozenset()
        start = _common(base, changed)
        spans.append((start, max(start, len(base) - _common(base[::-1], changed[::-1]))))
    # the first answer, because some templates put an empty thought in front of the last
    (_, after_question), (answered, after_answer), (asked, _), (_, done) = spans
    tail = base[done:]
    ends = frozenset([token for token in tail if token in special][:1])
    found = [
        (RESPONSE, _without(tail, base[after_question:answered])),
        (PROMPT, _without(tail, base[after_answer:asked])),
        *_system(tokenizer, template, words),
    ]
    known = [(role, ids) for role, ids in found if len(ids) > 1 or (ids and ids[0] in special)]
    is_clear = {PROMPT, RESPONSE} <= {role for role, _ in known} and len({ids for _, ids in known}) == len(known)
    return tuple(sorted(known, key=lambda hit: -len(hit[1]))) if is_clear else (), ends


def _system(tokenizer: Any, template: str | None, words: list[str]) -> list[tuple[int, tuple[int, ...]]]:
    one, two = (_tokens(tokenizer, template, words, system=word) for word in ("5", "h"))
    plain = _tokens(tokenizer, template, words)
    if one is None or two is None or plain is None or len(one) <= len(plain):
        return []
    head = one[: _common(one, two)]
    bos = tokenizer.bos_token_id
    return [(SYSTEM, tuple(head[1:] if head[:1] == [bos] else head))]


def _tokens(tokenizer: Any, template: str | None, words: Sequence[str], system: str | None = None) -> list[int] | None:
    spoken = [Message("assistant" if i % 2 else "user", word) for i, word in enumerate(words)]
    head = [] if system is None else [Message("system", system)]
    try:
        record = Record(Origin("template", 0), messages=(*head, *spoken))
        ids: list[int] = encode(record, tokenizer, template=template).input_ids.tolist()
    except RowError:
        return None
    return ids


def _common(one: Sequence[int], two: Sequence[int]) -> int:
    """Length of the common beginning."""
    same = 0
    while same < min(len(one), len(two)) and one[same] == two[same]:
        same += 1
    return same


def _without(tail: list[int], bridge: list[int]) -> tuple[int, ...]:
    """What stands between two messages, less the end of the first."""
    return tuple(bridge[_common(tail, bridge) :])
