"""From rows to the lengths of their answers, with or without a tokenizer, to the page about them."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sftloss.document import by_severity
from sftloss.errors import ConfigError, DataError
from sftloss.pipeline.folder import folder
from sftloss.pipeline.rows import Examples
from sftloss.pipeline.run import Run

if TYPE_CHECKING:
    import numpy as np

    from sftloss.analysis import LengthOptions, Lengths
    from sftloss.data import Example, Message, Origin, Record, Records
    from sftloss.report import Report

_UNITS = ("characters", "words")
_TOLD = 1000  # rows between two words on progress


def lengths(
    rows: str | Path | Iterable[Mapping[str, Any]],
    tokenizer: Any = None,
    *,
    unit: str = "characters",
    question: LengthOptions | None = None,
    run: Run | None = None,
) -> Report:
    """Which output lengths each normalization teaches, from the data alone; no model is run.

    Args:
        rows: A data file, a folder, a hub data set, or rows as mappings, in any of the usual formats.
        tokenizer: A transformers tokenizer: lengths then count the tokens that training divides by. None counts
            `unit` in the text of the answers, which is as good as the tokens of each are equally many.
        unit: ``"characters"`` or ``"words"`` (between blanks), where there is no tokenizer. Pre-tokenised rows are
            counted in tokens in any case.
        question: The normalizations, the size of a step, a wanted mean length. Its `unit` is set here.
        run: Which rows, where results go.

    Returns:
        The report: findings, predicted means with intervals, what the data can tell.

    Raises:
        ConfigError: If an option cannot be used, or the output folder is taken.
        DataError: If there is no usable row, or most rows are unusable.

    Example:
        >>> rows = [{"prompt": "a number", "response": text} for text in ("7", "seven", "it is 7")]
        >>> report = lengths(rows)
        >>> report.document.headlines[1]
        'Whether it shifts here this data cannot tell: 3 examples with trained tokens, fewer than 30.'
    """
    from sftloss.analysis import LengthOptions, describe_lengths
    from sftloss.data import read_records
    from sftloss.report import Report

    run, question = run or Run(), question or LengthOptions()
    if unit not in _UNITS:
        raise ConfigError(f"lengths: unit must be {' or '.join(_UNITS)}, got {unit!r}.")
    if tokenizer is None and run.max_length is not None:
        raise ConfigError("lengths: max_length counts tokens; give a tokenizer with it.")
    records = read_records(rows, format=run.format, columns=run.columns, on_error=run.on_error, limit=run.max_examples)
    account = Examples(records, tokenizer, max_length=run.max_length, on_error=run.on_error)
    with folder(run, resumes=False) as place:
        found = _Found() if tokenizer is not None else _Found(unit="")
        for measured in _of_examples(account) if tokenizer is not None else _of_text(records, account, unit):
            found.add(measured)
            if run.progress is not None and len(found.size) % _TOLD == 0:
                run.progress(len(found.size), None)
        question = replace(question, unit=found.unit)
        document = describe_lengths(found.lengths(), question, origins=found.origins, facts=account.facts())
        findings = by_severity((*document.findings, *account.findings()))
        told = (("command", run.command),) if run.command else ()
        report = Report(replace(document, findings=findings, provenance=(*told, *document.provenance)))
        place.write(report)
    return report


class _Answer(NamedTuple):
    """One answer: its length, a hash of what comes before it (-1 for nothing), whether it was cut off."""

    output: float
    prompt: int
    is_cut: bool = False


@dataclass(frozen=True)
class _Measured:
    """One row: T, and its answers."""

    size: float
    answers: tuple[_Answer, ...]
    other: float  # trained length of other roles than the answer
    task: str | None
    origin: Origin
    unit: str


@dataclass
class _Found:
    """Columns of numbers, eight bytes a cell, however many rows there are: of each row, and of each answer."""

    unit: str = "tokens"
    size: array[float] = field(default_factory=lambda: array("d"))
    other: array[float] = field(default_factory=lambda: array("d"))
    tasks: array[int] = field(default_factory=lambda: array("q"))
    rows: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("q"))
    paths: array[int] = field(default_factory=lambda: array("q"))
    owners: array[int] = field(default_factory=lambda: array("q"))
    output: array[float] = field(default_factory=lambda: array("d"))
    prompts: array[int] = field(default_factory=lambda: array("q"))
    cut: array[int] = field(default_factory=lambda: array("b"))
    names: dict[str | None, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)

    def add(self, row: _Measured) -> None:
        if self.unit != row.unit:
            if self.unit:
                raise DataError(
                    f"{row.origin}: the row counts {row.unit}, those before it {self.unit}; give a tokenizer to count "
                    "all in tokens."
                )
            self.unit = row.unit
        for answer in row.answers or (_Answer(0.0, -1),):  # a row that trains nothing is a row
            self.owners.append(len(self.size))
            self.output.append(answer.output)
            self.prompts.append(answer.prompt)
            self.cut.append(answer.is_cut)
        self.size.append(row.size)
        self.other.append(row.other)
        self.tasks.append(self.names.setdefault(row.task, len(self.names)))
        self.rows.append(row.origin.row)
        self.lines.append(-1 if row.origin.line is None else row.origin.line)
        self.paths.append(self.files.setdefault(row.origin.path, len(self.files)))

    def lengths(self) -> Lengths:
        import numpy as np

        from sftloss.analysis import Lengths

        size, tasks = np.asarray(self.size), np.asarray(self.tasks) if len(self.names) > 1 else None
        if not any(self.output):  # as in the analysis of a model: what is trained then is the output
            return Lengths(np.arange(len(size)), size, np.asarray(self.other), None, tasks)
        at = np.asarray(self.owners)
        columns = (np.asarray(self.output), np.asarray(self.prompts), None if tasks is None else tasks[at])
        return Lengths(at, size[at], *columns, np.asarray(self.cut, dtype=bool))

    def origins(self, ids: np.ndarray) -> tuple[str, ...]:
        files = list(self.files)
        return tuple(self._origin(files[self.paths[i]], i) for i in ids.tolist())

    def _origin(self, path: str, i: int) -> str:
        return f"{path}:{self.lines[i]}" if self.lines[i] >= 0 else f"{path} row {self.rows[i]}"


def _of_examples(examples: Iterable[Example]) -> Iterator[_Measured]:
    """Tokens, exactly as training sees them."""
    from sftloss.data import answer_spans

    for example in examples:
        trained, last = example.weights > 0, len(example.weights)
        found = []
        for (start, stop), prompt in zip(answer_spans(example), example.prompts, strict=True):
            is_cut = example.truncated > 0 and stop == last and not bool(example.is_end[stop - 1])
            found.append(_Answer(float(trained[start:stop].sum()), prompt or -1, is_cut))
        other = float(trained.sum()) - sum(one.output for one in found)
        size = float(example.weights.sum())
        yield _Measured(size, tuple(found), other, example.task, example.origin, "tokens")


def _of_text(records: Records, account: Examples, unit: str) -> Iterator[_Measured]:
    """Characters or words of what is trained; tokens where rows bring them."""
    for record in records:
        account.used += 1
        yield _of_tokens(record) if record.tokens is not None else _of_words(record, unit)


def _of_words(record: Record, unit: str) -> _Measured:
    messages, size, other = record.messages or (), 0.0, 0.0
    found, hashed = [], hashlib.blake2b(json.dumps(record.tools, default=str).encode(), digest_size=8)
    for message in messages:
        is_answer = message.role == "assistant"
        weight = float(is_answer) if message.weight is None else message.weight
        length = _count(message, unit) if weight > 0 else 0
        size += weight * length
        other += 0 if is_answer else length
        if is_answer:
            found.append(_Answer(float(length), _number(hashed)))
        hashed.update(json.dumps([message.role, message.content, message.tool_calls], default=str).encode())
    if record.text is not None:  # trained whole, without a prompt
        size = float(_count_text(record.text, unit))
        found.append(_Answer(size, -1))
    return _Measured(size * record.weight, tuple(found), other, record.task, record.origin, unit)


def _of_tokens(record: Record) -> _Measured:
    """Pre-tokenised rows need no tokenizer to be counted; without one a stretch of labels is an answer."""
    tokens = record.tokens or {}
    ids = list(tokens["input_ids"])
    labels, weights = tokens.get("labels"), tokens.get("weights")
    weight = [1.0] * len(ids) if weights is None else [float(w) for w in weights]
    if len(weight) != len(ids) or (labels is not None and len(labels) != len(ids)):
        raise DataError(f"{record.origin}: input_ids, labels and weights differ in length; repair the row.")
    if labels is not None:
        weight = [w if label != -100 else 0.0 for w, label in zip(weight, labels, strict=True)]
    weight[:1] = [0.0] * len(weight[:1])  # the first token is never predicted
    found, hashed, at = [], hashlib.blake2b(digest_size=8), 0
    edges = [i for i in range(len(ids) + 1) if (i < len(ids) and weight[i] > 0) != (i > 0 and weight[i - 1] > 0)]
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        hashed.update(array("q", ids[at:start]).tobytes())
        at = start
        found.append(_Answer(float(stop - start), _number(hashed) if start > 1 else -1))
    return _Measured(sum(weight) * record.weight, tuple(found), 0.0, record.task, record.origin, "tokens")


def _count(message: Message, unit: str) -> int:
    """What the answer writes: its words, its reasoning and its calls."""
    calls = (json.dumps(call, ensure_ascii=False, default=str) for call in message.tool_calls)
    return sum(_count_text(text, unit) for text in (message.content, message.reasoning or "", *calls))


def _count_text(text: str, unit: str) -> int:
    return len(text) if unit == "characters" else len(text.split())


def _number(hashed: Any) -> int:
    """63 bits of a running hash: equal for equal beginnings."""
    return int.from_bytes(hashed.digest(), "big") >> 1
