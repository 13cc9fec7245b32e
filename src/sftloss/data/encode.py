"""One record to one example: token ids, whose words they are, and what the data wants trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sftloss.data.account import MOSTLY, ON_ERROR, Account, Counts
from sftloss.data.examples import Example, Message, Record, answer_spans
from sftloss.data.read.read import Records
from sftloss.data.reasons import BadRow, RowError
from sftloss.data.template import Rendering, render, renderer
from sftloss.data.tokenizer import eos_ids, special_ids
from sftloss.errors import ConfigError
from sftloss.roles import PROMPT, RESPONSE, ROLES

_ROLE_OF = {"user": 0, "assistant": 1, "system": 2, "developer": 2, "tool": 3, "function": 3, "ipython": 3}
PLAIN_TEXT = "plain text"


@dataclass(frozen=True)
class _Draft:
    """A row as lists, before truncation and the checks that all rows share."""

    input_ids: list[int]
    roles: list[int]
    weights: list[float]
    ends: frozenset[int]
    method: str
    notes: tuple[str, ...] = ()


def encode(record: Record, tokenizer: Any, *, max_length: int | None = None, template: str | None = None) -> Example:
    """Tokens of a record, with the role and the data-side weight of each.

    Messages are rendered by the tokenizer's chat template. The assistant's words and the token that ends its turn
    are trained, its opener and whatever follows the end are not. Where the template has ``{% generation %}`` tags
    they say which words are the assistant's; elsewhere the tokens of the first k messages must be the beginning of
    the tokens of all, and the difference is the answer. `Example.method` records which way was taken. Without
    any template, messages get plain headings (``### User:``, ``### Assistant:``) and each answer ends with eos.

    A message's own weight replaces the default (assistant 1, others 0); the row's weight multiplies. A text is
    trained whole and gets an eos if it has none. Pre-tokenised rows keep their labels: -100 is weight 0.

    Args:
        record: A canonical row, as `read_records` yields it.
        tokenizer: A transformers tokenizer.
        max_length: Tokens kept, from the left; what is cut off is counted in `Example.truncated`.
        template: Jinja text, or the name of one of the tokenizer's templates, used in place of its default.

    Returns:
        The example; at least one of its weights is above 0 and the first token's is 0.

    Raises:
        RowError: If the record cannot become an example; its `reason` is a key of `ROW_REASONS`.
        ValueError: If `max_length` is less than 2.

    Example:
        >>> example = encode(record, tokenizer, max_length=2048)   # doctest: +SKIP
        >>> tokenizer.decode(example.input_ids[example.weights > 0])   # doctest: +SKIP
        'Paris.<|im_end|>'
    """
    if max_length is not None and max_length < 2:
        raise ValueError(f"encode: max_length must be at least 2 to leave a token to predict, got {max_length}.")
    try:
        draft = _without_double_bos(_draft_of(record, tokenizer, template), tokenizer.bos_token_id)
        return _finish(record, draft, max_length)
    except BadRow as error:
        raise RowError(error.reason, record.origin, error.detail) from error


class Examples:
    """The examples of records, and the account of the rows that did not become one.

    Each `for` loop goes through the records anew; `account` is that of the latest one.

    Args:
        records: What `read_records` gives, or any records.
        tokenizer: A transformers tokenizer.
        max_length, template: As in `encode`.
        on_error: What an unusable row does, one of `ON_ERROR`; rows that the reader refuses are judged with the
            others at the end.

    Raises:
        DataError: While iterating: as `read_records` does, for all rows that did not become an example.

    Example:
        >>> examples = Examples(read_records("train.jsonl"), tokenizer)   # doctest: +SKIP
        >>> for example in examples: ...                                  # doctest: +SKIP
        >>> print(examples.account.summary())                             # doctest: +SKIP
    """

    def __init__(
        self,
        records: Iterable[Record],
        tokenizer: Any,
        *,
        max_length: int | None = None,
        template: str | None = None,
        on_error: str = "report",
    ) -> None:
        if on_error not in ON_ERROR:
            raise ConfigError(f"must be one of {', '.join(ON_ERROR)}, got {on_error!r}", option="on_error")
        self._records, self._tokenizer, self._on_error = records, tokenizer, on_error
        self._max_length, self._template = max_length, template
        self._counts = Counts("records")

    @property
    def account(self) -> Account:
        """What the latest pass has counted so far."""
        own = self._counts.account()
        if not isinstance(self._records, Records):
            return own
        read = self._records.account
        return replace(
            own,
            source=read.source,
            rows=read.rows,
            counts={**read.counts, **own.counts},
            origins={**read.origins, **own.origins},
            details={**read.details, **own.details},
            formats=read.formats,
            unseen_columns=read.unseen_columns,
            limited=read.limited,
        )

    def __iter__(self) -> Iterator[Example]:
        return (example for _, example in self.pairs())

    def pairs(self) -> Iterator[tuple[Record, Example]]:
        """Each example with the record it was made from."""
        self._counts = counts = Counts("records")
        for record in self._records:
            counts.rows += 1
            try:
                example = encode(record, self._tokenizer, max_length=self._max_length, template=self._template)
            except RowError as error:
                if self._on_error == "raise":
                    raise
                counts.places.add(error.reason, error.origin, error.detail)
                continue
            counts.saw_example(example)
            yield record, example
        counts.complete = True
        share = self._records.bad_share if isinstance(self._records, Records) else MOSTLY
        self.account.judge(self._on_error, share)


def _draft_of(record: Record, tokenizer: Any, template: str | None) -> _Draft:
    if record.messages is not None:
        return _from_messages(record, tokenizer, template)
    if record.text is not None:
        return _from_text(record.text, tokenizer)
    if record.tokens is not None:
        return _from_tokens(record, tokenizer)
    raise BadRow("nothing-trained", "the record has no messages, text or tokens; give it one of them")


def _from_messages(record: Record, tokenizer: Any, template: str | None) -> _Draft:
    messages = record.messages or ()
    if not messages:
        raise BadRow("nothing-trained", "the conversation is empty: give it at least one answer")
    rendering = render(renderer(messages, tokenizer, tools=record.tools, template=template))
    return _draft_of_rendering(rendering, messages, tokenizer)


def _draft_of_rendering(rendering: Rendering, messages: Sequence[Message], tokenizer: Any) -> _Draft:
    ids = rendering.input_ids
    roles, weights = [PROMPT] * len(ids), [0.0] * len(ids)
    special, ends = special_ids(tokenizer), eos_ids(tokenizer)
    for span in (*rendering.answers, *rendering.others):
        if span.message is None:
            continue
        message = messages[span.message]
        role = _ROLE_OF.get(message.role, PROMPT)
        weight = message.weight if message.weight is not None else float(role == RESPONSE)
        stop = _end_of_turn(ids, span.start, span.stop, special, tokenizer)
        if role == RESPONSE and stop > span.start and ids[stop - 1] in special:
            ends |= {ids[stop - 1]}
        elif role == RESPONSE and span.stop < len(ids) and ids[span.stop] in special - {tokenizer.bos_token_id}:
            ends |= {ids[span.stop]}  # generation tags that leave the end of the turn outside
        # What follows the end of an answer is the template's, not the assistant's.
        roles[span.start : span.stop] = [role if i < stop or role != RESPONSE else PROMPT for i in _range(span)]
        weights[span.start : stop] = [weight] * (stop - span.start)
    notes = rendering.notes if ends else (*rendering.notes, "no_end_token")
    return _Draft(ids, roles, weights, ends, rendering.method, notes)


def _range(span: Any) -> range:
    return range(span.start, span.stop)


def _end_of_turn(ids: list[int], start: int, stop: int, special: frozenset[int], tokenizer: Any) -> int:
    """One past the last special token if only whitespace follows it, else `stop`."""
    for i in range(stop - 1, start - 1, -1):
        if ids[i] in special:
            return i + 1
        if tokenizer.decode([ids[i]]).strip():
            return stop
    return stop


def _from_text(text: str, tokenizer: Any) -> _Draft:
    ids, ends = list(tokenizer(text).input_ids), eos_ids(tokenizer)
    if ends and (not ids or ids[-1] not in ends):
        ids.append(tokenizer.eos_token_id)
    return _Draft(ids, [RESPONSE] * len(ids), [1.0] * len(ids), ends, PLAIN_TEXT)


def _from_tokens(record: Record, tokenizer: Any) -> _Draft:
    """Labels follow the usual convention: not shifted, equal to input_ids where trained and -100 elsewhere."""
    tokens = record.tokens or {}
    ids = [int(i) for i in tokens["input_ids"]]
    columns = {name: list(tokens[name]) for name in ("labels", "weights", "roles") if tokens.get(name) is not None}
    for name, values in columns.items():
        if len(values) != len(ids):
            raise BadRow("bad-labels", f"{name} has {len(values)} entries, input_ids {len(ids)}")
    lengths, positions = tokens.get("seq_lengths"), tokens.get("position_ids")
    if (lengths is not None and len(lengths) > 1) or (positions is not None and 0 in list(positions)[1:]):
        detail = "it holds several packed sequences: give one sequence per row, packing is done here"
        raise BadRow("packed-row", detail)
    labels = columns.get("labels", ids)
    wrong = next((i for i, label in enumerate(labels) if label not in (-100, ids[i])), None)
    if wrong is not None:
        detail = (
            f"labels[{wrong}] is {labels[wrong]}, input_ids[{wrong}] {ids[wrong]}: give labels that are not shifted"
        )
        raise BadRow("bad-labels", detail)
    weights = [
        float(w) if y != -100 else 0.0 for y, w in zip(labels, columns.get("weights", [1.0] * len(ids)), strict=True)
    ]
    roles = columns.get("roles", [RESPONSE if y != -100 else PROMPT for y in labels])
    codes = [ROLES.index(role) if role in ROLES else role for role in roles]
    if not all(isinstance(code, int) and 0 <= code < len(ROLES) for code in codes):
        raise BadRow("bad-labels", f"roles must be names or codes of {', '.join(ROLES)}")
    return _Draft(ids, codes, weights, eos_ids(tokenizer), "labels")


def _without_double_bos(draft: _Draft, bos: int | None) -> _Draft:
    """A template and a tokenizer that both add bos give two; the model was trained on one."""
    extra = 0
    while bos is not None and draft.input_ids[extra : extra + 2] == [bos, bos]:
        extra += 1
    if not extra:
        return draft
    ids, roles, weights = draft.input_ids[extra:], draft.roles[extra:], draft.weights[extra:]
    notes = (*draft.notes, "double_bos")
    return _Draft(ids, roles, weights, draft.ends, draft.method, notes)


def _finish(record: Record, draft: _Draft, max_length: int | None) -> Example:
    size = len(draft.input_ids)
    kept = size if max_length is None else min(size, max_length)
    if size < 2:
        raise BadRow("too-short", f"{size} tokens leave none to predict")
    weights = torch.tensor(draft.weights, dtype=torch.float32) * record.weight
    weights[0] = 0.0  # nothing comes before the first token that could predict it
    if not torch.isfinite(weights).all() or not weights.any():
        raise BadRow("nothing-trained", "no token has a weight: nothing in the row would be trained")
    if not weights[:kept].any():
        detail = f"its {size} tokens are cut to {kept} and no trained one is left"
        raise BadRow("truncated-away", detail)
    ids = torch.tensor(draft.input_ids, dtype=torch.int64)
    example = Example(
        input_ids=ids[:kept],
        roles=torch.tensor(draft.roles, dtype=torch.int8)[:kept],
        weights=weights[:kept],
        is_end=torch.isin(ids, torch.tensor(sorted(draft.ends), dtype=torch.int64))[:kept],
        origin=record.origin,
        task=record.task,
        language=record.language,
        source=record.source,
        truncated=size - kept,
        method=draft.method,
        notes=draft.notes,
    )
    return replace(example, prompts=_prompts(example))


def _prompts(example: Example) -> tuple[int, ...]:
    """A hash of what stands before each answer: 63 bits, so that it fits a signed column of a table."""
    hashed, at, found = hashlib.blake2b(digest_size=8), 0, []
    for start, _ in answer_spans(example):
        hashed.update(example.input_ids[at:start].numpy().tobytes())
        at = start
        has_prompt = start > 1 and example.method != PLAIN_TEXT  # one token before it is a bos, not a prompt
        found.append(int.from_bytes(hashed.digest(), "big") >> 1 if has_prompt else 0)
    return tuple(found)
