"""Records to examples: token ids, the role of each token, and its weight in the data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from sftloss.data.account import Account
from sftloss.data.examples import Example, Record, answer_spans
from sftloss.data.read.read import Records, read_records
from sftloss.data.reasons import BadRow, RowError
from sftloss.data.template import render, renderer
from sftloss.data.tokenizer import eos_ids, special_ids
from sftloss.errors import mention
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
    are trained; its opener and what follows the end are not. If the template has ``{% generation %}`` tags, they mark
    the assistant's words. Otherwise the tokens of the first k messages must be the beginning of the tokens of all, and
    the difference is the answer. `Example.method` records which of the two was used. Without any template, messages
    get plain headings (``### User:``, ``### Assistant:``) and each answer ends with eos.

    A message's own weight replaces the default (assistant 1, others 0); the row's weight multiplies it. A text is
    trained whole and gets an eos if it has none. Rows of token ids keep their labels: -100 is weight 0.

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

    Each `for` loop goes through the records anew. The policy on unusable rows is that of `read_records`; it holds for
    rows that cannot be read and rows that cannot be encoded together.

    Args:
        records: What `read_records` gives, or anything that it takes, `Record` values among them.
        tokenizer: A transformers tokenizer.
        max_length, template: As in `encode`.

    Raises:
        DataError: While iterating, as `read_records` does.

    Example:
        >>> examples = Examples("train.jsonl", tokenizer)       # doctest: +SKIP
        >>> for example in examples: ...                        # doctest: +SKIP
        >>> print(examples.account.summary())                   # doctest: +SKIP
    """

    def __init__(
        self, records: Any, tokenizer: Any, *, max_length: int | None = None, template: str | None = None
    ) -> None:
        self._records = records if isinstance(records, Records) else read_records(records)
        self._tokenizer, self._max_length, self._template = tokenizer, max_length, template

    @property
    def account(self) -> Account:
        """What the latest loop has counted so far."""
        return self._records.account

    def __iter__(self) -> Iterator[Example]:
        return (example for _, example in self.pairs())

    def pairs(self) -> Iterator[tuple[Record, Example]]:
        """Each example with the record it was made from."""
        for record in self._records:
            try:
                example = encode(record, self._tokenizer, max_length=self._max_length, template=self._template)
            except RowError as error:
                if self._records.on_error == "raise":
                    raise
                self.account.used -= 1
                self.account.reasons.add(error.reason, error.origin, error.detail)
            else:
                self.account.saw_example(example)
                yield record, example


def _draft_of(record: Record, tokenizer: Any, template: str | None) -> _Draft:
    if record.messages is not None:
        return _from_messages(record, tokenizer, template)
    if record.text is not None:
        return _from_text(record.text, tokenizer)
    if record.tokens is not None:
        return _from_tokens(record.tokens, tokenizer)
    raise BadRow("nothing-trained", "the record has no messages, text or tokens; give it one of them")


def _from_messages(record: Record, tokenizer: Any, template: str | None) -> _Draft:
    messages = record.messages or ()
    if not messages:
        raise BadRow("nothing-trained", "the conversation is empty; give it at least one answer")
    rendering = render(renderer(messages, tokenizer, tools=record.tools, template=template))
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
        # what follows the end of an answer is the template's, not the assistant's
        owned = stop if role == RESPONSE else span.stop
        roles[span.start : owned] = [role] * (owned - span.start)
        weights[span.start : stop] = [weight] * (stop - span.start)
    notes = rendering.notes if ends else (*rendering.notes, "no_end_token")
    return _Draft(ids, roles, weights, ends, rendering.method, notes)


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


def _from_tokens(tokens: Mapping[str, Any], tokenizer: Any) -> _Draft:
    """Labels follow the usual convention: not shifted, equal to input_ids where trained and -100 elsewhere."""
    ids = [int(i) for i in tokens["input_ids"]]
    columns = {name: list(tokens[name]) for name in ("labels", "weights", "roles") if tokens.get(name) is not None}
    for name, values in columns.items():
        if len(values) != len(ids):
            raise BadRow(
                "bad-labels", f"{name} has {len(values)} entries, input_ids {len(ids)}; make them equally many"
            )
    lengths, positions = tokens.get("seq_lengths"), tokens.get("position_ids")
    if (lengths is not None and len(lengths) > 1) or (positions is not None and 0 in list(positions)[1:]):
        raise BadRow("packed-row", "it holds several packed sequences; give one sequence a row, packing is done here")
    labels = columns.get("labels", ids)
    for i, (label, token) in enumerate(zip(labels, ids, strict=True)):
        if label not in (-100, token):
            detail = f"labels[{i}] is {label}, input_ids[{i}] {token}; give labels that are not shifted"
            raise BadRow("bad-labels", detail)
    weights = [float(w) for w in columns.get("weights", [1.0] * len(ids))]
    weights = [w if label != -100 else 0.0 for label, w in zip(labels, weights, strict=True)]
    roles = columns.get("roles", [RESPONSE if label != -100 else PROMPT for label in labels])
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
    kept = {name: getattr(draft, name)[extra:] for name in ("input_ids", "roles", "weights")}
    return replace(draft, **kept, notes=(*draft.notes, "double_bos"))


def _finish(record: Record, draft: _Draft, max_length: int | None) -> Example:
    size = len(draft.input_ids)
    kept = size if max_length is None else min(size, max_length)
    if size < 2:
        raise BadRow("too-short", f"{size} tokens leave none to predict; remove the row")
    weights = torch.tensor(draft.weights, dtype=torch.float32) * record.weight
    weights[0] = 0.0  # nothing comes before the first token that could predict it
    if not torch.isfinite(weights).all() or not weights.any():
        raise BadRow("nothing-trained", "no token has a weight, so nothing in the row would be trained; remove the row")
    if not weights[:kept].any():
        cure = f"give a larger {mention('max_length')}"
        raise BadRow("truncated-away", f"its {size} tokens are cut to {kept} and no trained one is left; {cure}")
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
    hashed, at, hashes = hashlib.blake2b(digest_size=8), 0, []
    for start, _ in answer_spans(example):
        hashed.update(example.input_ids[at:start].numpy().tobytes())
        at = start
        has_prompt = start > 1 and example.method != PLAIN_TEXT  # one token before it is a bos, not a prompt
        hashes.append(int.from_bytes(hashed.digest(), "big") >> 1 if has_prompt else 0)
    return tuple(hashes)
