"""Records to examples: token ids, the role of each token, and its weight in the data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch

from sftloss.data.account import END_ROOM, Account
from sftloss.data.examples import Example, Message, Record, answer_spans
from sftloss.data.formats.tokens import tokens
from sftloss.data.read.read import Records, read_records
from sftloss.data.reasons import ROW_REASONS, BadRow, RowError
from sftloss.data.rendering.cures import without_reasoning
from sftloss.data.rendering.render import render
from sftloss.data.rendering.scaffold import Scaffold, roles_of, scaffold_of
from sftloss.data.rendering.template import TAKEN, Template
from sftloss.data.tokenizer import Limits, eos_ids, limits_of
from sftloss.errors import ConfigError, mention
from sftloss.roles import PROMPT, RESPONSE, UNKNOWN
from sftloss.words import counted

_ROLE_OF = {"user": 0, "assistant": 1, "system": 2, "developer": 2, "tool": 3, "function": 3, "ipython": 3}
PLAIN_TEXT = "plain text"
_MOST_TEMPLATES = 64
_MANY = 100_000  # tokens of a row that any machine runs
_HOPELESS = 16  # times the context of the model: such a row is no example, and running it would take minutes


@dataclass(frozen=True)
class _Draft:
    """A row as lists, before truncation and the checks that all rows share."""

    input_ids: list[int]
    roles: list[int]
    weights: list[float]
    is_end: list[bool]
    method: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoding:
    """How rows become tokens.

    Attributes:
        max_length: Tokens kept of a row; what is cut off is counted in `Example.truncated`. None keeps all.
        truncate: Which end of a longer row is cut off, ``"end"`` or ``"start"``; ``"drop"`` leaves the row out.
        template: In place of the tokenizer's default: Jinja text, a file, a name in TRL as ``"qwen3_training"``, or one
            of the tokenizer's names.
        chat_template_kwargs: Variables for the chat template, as ``{"enable_thinking": False}``; a row's own, in its
            column ``chat_template_kwargs``, win.
        think_weight: Factor of the weight of the reasoning in answers, tags included; 0 leaves it untrained, None is 1.
        thinking: ``"keep"``, or ``"drop"`` to leave the reasoning out of all answers before they are rendered.
    """

    max_length: int | None = None
    truncate: str = "end"
    template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    think_weight: float | None = None
    thinking: str = "keep"

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 2:
            problem = f"encode: max_length must be at least 2 to leave a token to predict, got {self.max_length}."
            raise ValueError(problem)
        if self.truncate not in ("start", "end", "drop"):
            raise ConfigError(f"must be start, end or drop, got {self.truncate!r}", option="truncate")
        if self.truncate == "drop" and self.max_length is None:
            problem = f"drop leaves out rows longer than {mention('max_length')}, which is missing"
            raise ConfigError(problem, option="truncate", cure="give it, for example 1024")
        if self.thinking not in ("keep", "drop"):
            raise ConfigError(f"must be keep or drop, got {self.thinking!r}", option="thinking")
        if self.think_weight is not None and not 0 <= self.think_weight < float("inf"):
            raise ConfigError(f"must be a finite number >= 0, got {self.think_weight}", option="think_weight")
        if taken := sorted(TAKEN & set(self.chat_template_kwargs)):
            raise ConfigError(f"{taken[0]} is no variable of a template", option="chat_template_kwargs")


def encoding_of(holder: Any) -> dict[str, Any]:
    """The fields of `Encoding` that a recipe or a run holds, for `Examples` and `encode`."""
    return {one.name: getattr(holder, one.name) for one in fields(Encoding)}


def encode(record: Record, tokenizer: Any, **how: Any) -> Example:
    """Tokens of a record, with the role and the data-side weight of each.

    Messages are rendered by the tokenizer's chat template, and their tokens are found by position: the words of each
    are marked and looked up (`sftloss.data.rendering`). The assistant's words and the token that ends its turn are
    trained; its opener and what follows the end are not. If the template has ``{% generation %}`` tags that hold every
    answer, they decide which of an answer's tokens are trained. `Example.method` records which of the two was used.
    Without any template, messages get plain headings (``### User:``, ``### Assistant:``) and each answer ends with eos.

    A message's own weight replaces the default (assistant 1, others 0); the row's weight multiplies all of them. A text
    is trained whole and gets an eos if it has none. Rows of token ids keep their labels: -100 is weight 0.

    Args:
        record: A canonical row, as `read_records` yields it.
        tokenizer: A transformers tokenizer.
        how: The fields of `Encoding`: ``max_length``, ``template``, ...

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
    return _encode(record, Encoding(**how), _Templates(tokenizer))


@dataclass
class _Templates:
    """The templates of a pass by their keyword arguments, so that what is learned about one is learned once."""

    tokenizer: Any
    by_kwargs: dict[str, Template] = field(default_factory=dict)

    @cached_property
    def limits(self) -> Limits:
        return limits_of(self.tokenizer)

    def of(self, record: Record | None, how: Encoding) -> Template:
        kwargs = {**how.chat_template_kwargs, **(record.template_kwargs if record else {})}
        if taken := sorted(TAKEN & set(kwargs)):
            raise BadRow("template-error", f"chat_template_kwargs has {taken[0]}, no variable of a template; remove it")
        key = json.dumps(kwargs, sort_keys=True, default=str)
        if key not in self.by_kwargs:
            if len(self.by_kwargs) == _MOST_TEMPLATES:
                self.by_kwargs.clear()
            self.by_kwargs[key] = Template(self.tokenizer, how.template, kwargs)
        return self.by_kwargs[key]


def _encode(record: Record, how: Encoding, templates: _Templates) -> Example:
    try:
        if record.tokens is not None and (largest := max(record.tokens["input_ids"])) >= templates.limits.vocabulary:
            detail = f"it holds the id {largest}, and the vocabulary has {templates.limits.vocabulary:,} ids"
            raise BadRow("outside-vocabulary", f"{detail}; make the rows with this model's tokenizer")
        draft = _draft_of(record, templates.of(record, how), how)
        draft = _without_double_bos(draft, templates.tokenizer.bos_token_id)
        return _finish(record, draft, how, templates.limits.context)
    except BadRow as error:
        raise RowError(error.reason, record.origin, error.detail) from error


class Examples:
    """The examples of records, and the account of the rows that did not become one.

    Each `for` loop goes through the records anew. The policy on unusable rows is that of `read_records`; it holds for
    rows that cannot be read and rows that cannot be encoded together.

    Args:
        records: What `read_records` gives, or anything that it takes, `Record` values among them.
        tokenizer: A transformers tokenizer.
        how: The fields of `Encoding`, as in `encode`.

    Raises:
        DataError: While iterating, as `read_records` does.

    Example:
        >>> examples = Examples("train.jsonl", tokenizer)       # doctest: +SKIP
        >>> for example in examples: ...                        # doctest: +SKIP
        >>> print(examples.account.summary())                   # doctest: +SKIP
    """

    def __init__(self, records: Any, tokenizer: Any, **how: Any) -> None:
        self._records = records if isinstance(records, Records) else read_records(records)
        self._templates, self._how = _Templates(tokenizer), Encoding(**how)

    @property
    def account(self) -> Account:
        """What the latest loop has counted so far."""
        return self._records.account

    @property
    def scaffold(self) -> Scaffold:
        """What the chat template puts around messages."""
        return scaffold_of(self._templates.of(None, self._how))

    def __iter__(self) -> Iterator[Example]:
        return (example for _, example in self.pairs())

    def pairs(self) -> Iterator[tuple[Record, Example]]:
        """Each example with the record it was made from."""
        for record in self._records:
            try:
                example = _encode(record, self._how, self._templates)
            except RowError as error:
                if self._records.on_error == "raise" and ROW_REASONS[error.reason].is_refusal:
                    raise
                self.account.used -= 1
                self.account.reasons.add(error.reason, error.origin, error.detail)
            else:
                self.account.saw_example(example)
                yield record, example


def _draft_of(record: Record, template: Template, how: Encoding) -> _Draft:
    if record.messages is not None:
        messages = _without_reasoning(record.messages) if how.thinking == "drop" else record.messages
        return _from_messages(replace(record, messages=tuple(messages)), template, how.think_weight)
    unread = () if how.think_weight is None else ("no_thoughts",)
    if record.text is not None:
        draft = replace(_from_text(record.text, template.tokenizer), notes=unread)
        return _with_roles(draft, template, RESPONSE)
    if record.tokens is not None:
        draft = replace(_from_tokens(record.tokens, template.tokenizer), notes=unread)
        is_named = record.tokens.get("roles") is not None
        return draft if is_named else _with_roles(draft, template, RESPONSE if all(draft.weights) else UNKNOWN)
    raise BadRow("nothing-trained", "the record has no messages, text or tokens; give it one of them")


def _without_reasoning(messages: Sequence[Message]) -> list[Message]:
    """The messages without reasoning; BadRow where a trained answer was nothing else."""
    rest = without_reasoning(messages)
    for number, (before, after) in enumerate(zip(messages, rest, strict=True), start=1):
        if after != before and after.weight != 0 and not (after.content.strip() or after.tool_calls):
            detail = f"message {number} is all reasoning, so {mention('thinking', 'drop')} leaves nothing to train"
            raise BadRow("empty-answer", f"{detail}; remove the row, or close its <think> where the answer begins")
    return rest


def _from_messages(record: Record, template: Template, think_weight: float | None) -> _Draft:
    if not record.messages:
        raise BadRow("nothing-trained", "the conversation is empty; give it at least one answer")
    rendering = render(template, record.messages, [dict(tool) for tool in record.tools] if record.tools else None)
    ids = rendering.input_ids
    roles, weights, is_end = [PROMPT] * len(ids), [0.0] * len(ids), [False] * len(ids)
    for span in rendering.spans:
        message, size = rendering.messages[span.message], span.stop - span.start
        role = _ROLE_OF.get(message.role, PROMPT)
        weight = message.weight if message.weight is not None else float(role == RESPONSE)
        roles[span.start : span.stop] = [role] * size
        weights[span.start : span.stop] = [weight] * size
        if span.end is not None:
            is_end[span.end] = True
    factor = 1.0 if think_weight is None else think_weight
    for start, stop in rendering.thoughts:
        weights[start:stop] = [weight * factor for weight in weights[start:stop]]
    notes = rendering.notes if think_weight is None or rendering.thoughts else (*rendering.notes, "no_thoughts")
    return _Draft(ids, roles, weights, is_end, rendering.method, notes)


def _with_roles(draft: _Draft, template: Template, other: int) -> _Draft:
    """The roles by the turns that the tokens show; a row that shows none is `other`."""
    scaffold = scaffold_of(template)
    turns = scaffold.turns(draft.input_ids)
    is_trained = [weight != 0 for weight in draft.weights]
    if turns:
        is_end = [e or i in scaffold.ends for e, i in zip(draft.is_end, draft.input_ids, strict=True)]
        return replace(draft, roles=roles_of(turns, is_trained, END_ROOM), is_end=is_end)
    notes = (*draft.notes, "roles_unknown") if other == UNKNOWN else draft.notes
    return replace(draft, roles=[other] * len(is_trained), notes=notes)


def _from_text(text: str, tokenizer: Any) -> _Draft:
    ids, ends = list(tokenizer(text).input_ids), eos_ids(tokenizer)
    last = next((token for token in reversed(ids) if tokenizer.decode([token]).strip()), None)
    if ends and last not in ends:  # an end with line breaks behind it is an end
        ids.append(tokenizer.eos_token_id)
    return _Draft(ids, [RESPONSE] * len(ids), [1.0] * len(ids), [token in ends for token in ids], PLAIN_TEXT)


def _from_tokens(row: Mapping[str, Any], tokenizer: Any) -> _Draft:
    """Labels follow the usual convention: not shifted, equal to input_ids where trained and -100 elsewhere."""
    columns = tokens(row)
    ids, ends = columns["input_ids"], eos_ids(tokenizer)
    labels, weights = columns.get("labels", ids), columns.get("weights", [1.0] * len(ids))
    weights = [weight if label != -100 else 0.0 for label, weight in zip(labels, weights, strict=True)]
    return _Draft(ids, columns.get("roles", [UNKNOWN] * len(ids)), weights, [token in ends for token in ids], "labels")


def _without_double_bos(draft: _Draft, bos: int | None) -> _Draft:
    """A template and a tokenizer that both add bos give two; the model was trained on one."""
    extra = 0
    while bos is not None and draft.input_ids[extra : extra + 2] == [bos, bos]:
        extra += 1
    if not extra:
        return draft
    kept = {name: getattr(draft, name)[extra:] for name in ("input_ids", "roles", "weights", "is_end")}
    return replace(draft, **kept, notes=(*draft.notes, "double_bos"))


def _finish(record: Record, draft: _Draft, how: Encoding, context: int | None) -> Example:
    size = len(draft.input_ids)
    if size < 2:
        raise BadRow("too-short", f"{counted(size, 'token')} and none to predict; remove the row")
    weights = torch.tensor(draft.weights, dtype=torch.float32) * record.weight
    weights[0] = 0.0  # nothing comes before the first token that could predict it
    if not torch.isfinite(weights).all() or not weights.any():
        raise BadRow("nothing-trained", "no token has a weight, so nothing in the row would be trained; remove the row")
    count = size if how.max_length is None else min(size, how.max_length)
    if how.truncate == "drop" and count < size:
        raise BadRow("longer-than-kept", f"its {size:,} tokens are more than {mention('max_length', count)}")
    notes = draft.notes
    if context is not None and count > context:
        if how.max_length is None and count > max(_HOPELESS * context, _MANY):
            cure = f"give {mention('max_length', context)}"
            raise BadRow("too-long", f"its {count:,} tokens are many times the model's context of {context:,}; {cure}")
        notes = (*notes, f"longer: {context:,}")
    kept = slice(0, count) if how.truncate == "end" else slice(size - count, size)
    weights = weights[kept].clone()
    weights[0] = 0.0
    if not weights.any():
        cure = f"give a larger {mention('max_length')}"
        raise BadRow("truncated-away", f"its {size} tokens are cut to {count} and no trained one is left; {cure}")
    example = Example(
        input_ids=torch.tensor(draft.input_ids, dtype=torch.int64)[kept],
        roles=torch.tensor(draft.roles, dtype=torch.int8)[kept],
        weights=weights,
        is_end=torch.tensor(draft.is_end)[kept],
        origin=record.origin,
        row_weight=abs(record.weight),
        task=record.task,
        language=record.language,
        source=record.source,
        truncated=size - count,
        method=draft.method,
        notes=notes,
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
