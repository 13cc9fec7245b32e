"""One record to one example: token ids, whose words they are, and what the data wants trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from sftloss.data.examples import Example, Message, Origin, Record, answer_spans
from sftloss.data.template import Rendering, TemplateFailure, render, renderer
from sftloss.data.tokenizer import eos_ids, special_ids
from sftloss.errors import DataError
from sftloss.roles import PROMPT, RESPONSE, ROLES

ENCODE_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "template-error": "DATA051",
        "packed-row": "DATA052",
        "bad-labels": "DATA053",
        "too-short": "DATA054",
        "nothing-trained": "MASK001",
        "prefix-broken": "MASK006",
        "truncated-away": "MASK007",
    }
)
"""Why a record cannot become an example, and the code under which reports name it."""

_ROLE_OF = {"user": 0, "assistant": 1, "system": 2, "developer": 2, "tool": 3, "function": 3, "ipython": 3}
PLAIN_TEXT = "plain text"


class RowError(DataError):
    """A record that cannot become an example: `reason` is a key of ENCODE_REASONS, `detail` says what to do."""

    def __init__(self, reason: str, origin: Origin, detail: str) -> None:
        super().__init__(f"{origin}: {ENCODE_REASONS[reason]} {reason}: {detail}")
        self.reason, self.origin, self.detail = reason, origin, detail


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
        RowError: If the record cannot become an example; its `reason` is a key of `ENCODE_REASONS`.
        ValueError: If `max_length` is less than 2.

    Example:
        >>> example = encode(record, tokenizer, max_length=2048)   # doctest: +SKIP
        >>> tokenizer.decode(example.input_ids[example.weights > 0])   # doctest: +SKIP
        'Paris.<|im_end|>'
    """
    if max_length is not None and max_length < 2:
        raise ValueError(f"encode: max_length must be at least 2 to leave a token to predict, got {max_length}.")
    if record.messages is not None:
        draft = _from_messages(record, tokenizer, template)
    elif record.text is not None:
        draft = _from_text(record.text, tokenizer)
    elif record.tokens is not None:
        draft = _from_tokens(record, tokenizer)
    else:
        raise RowError("nothing-trained", record.origin, "the record has no messages, text or tokens")
    return _finish(record, _without_double_bos(draft, tokenizer.bos_token_id), max_length)


def encode_records(
    records: Iterable[Record],
    tokenizer: Any,
    *,
    max_length: int | None = None,
    template: str | None = None,
    refused: list[RowError] | None = None,
) -> Iterator[Example]:
    """Examples of all records that have one, in order.

    Args:
        records: Canonical rows.
        tokenizer: A transformers tokenizer.
        max_length: As in `encode`.
        template: As in `encode`.
        refused: Collects the errors of the rows that cannot be encoded; None raises the first one.

    Raises:
        RowError: At the first row that cannot be encoded, if `refused` is None.
    """
    for record in records:
        try:
            yield encode(record, tokenizer, max_length=max_length, template=template)
        except RowError as error:
            if refused is None:
                raise
            refused.append(error)


def _from_messages(record: Record, tokenizer: Any, template: str | None) -> _Draft:
    messages = record.messages or ()
    if not messages:
        raise RowError("nothing-trained", record.origin, "the conversation is empty: give it at least one answer")
    try:
        rendering = render(renderer(messages, tokenizer, tools=record.tools, template=template))
    except TemplateFailure as error:
        raise RowError(error.reason, record.origin, str(error)) from error
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
            raise RowError("bad-labels", record.origin, f"{name} has {len(values)} entries, input_ids {len(ids)}")
    lengths, positions = tokens.get("seq_lengths"), tokens.get("position_ids")
    if (lengths is not None and len(lengths) > 1) or (positions is not None and 0 in list(positions)[1:]):
        detail = "it holds several packed sequences: give one sequence per row, packing is done here"
        raise RowError("packed-row", record.origin, detail)
    labels = columns.get("labels", ids)
    wrong = next((i for i, label in enumerate(labels) if label not in (-100, ids[i])), None)
    if wrong is not None:
        detail = (
            f"labels[{wrong}] is {labels[wrong]}, input_ids[{wrong}] {ids[wrong]}: give labels that are not shifted"
        )
        raise RowError("bad-labels", record.origin, detail)
    weights = [
        float(w) if y != -100 else 0.0 for y, w in zip(labels, columns.get("weights", [1.0] * len(ids)), strict=True)
    ]
    roles = columns.get("roles", [RESPONSE if y != -100 else PROMPT for y in labels])
    codes = [ROLES.index(role) if role in ROLES else role for role in roles]
    if not all(isinstance(code, int) and 0 <= code < len(ROLES) for code in codes):
        raise RowError("bad-labels", record.origin, f"roles must be names or codes of {', '.join(ROLES)}")
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
        raise RowError("too-short", record.origin, f"{size} tokens leave none to predict")
    weights = torch.tensor(draft.weights, dtype=torch.float32) * record.weight
    weights[0] = 0.0  # nothing comes before the first token that could predict it
    if not torch.isfinite(weights).all() or not weights.any():
        raise RowError("nothing-trained", record.origin, "no token has a weight: nothing in the row would be trained")
    if not weights[:kept].any():
        detail = f"its {size} tokens are cut to {kept} and no trained one is left; allow more"
        raise RowError("truncated-away", record.origin, detail)
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
