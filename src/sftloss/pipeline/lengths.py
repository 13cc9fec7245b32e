"""From rows to the lengths of their answers, with or without a tokenizer, to the page about them."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftloss.document import by_severity
from sftloss.errors import ConfigError, DataError, mention
from sftloss.pipeline.folder import folder
from sftloss.pipeline.run import Run, records_of
from sftloss.rules import findings_of

if TYPE_CHECKING:
    import numpy as np

    from sftloss.analysis import LengthColumns, LengthOptions, RowLengths
    from sftloss.data import Message, Origin, Record, Records
    from sftloss.report import Report

_UNITS = ("characters", "words")
_ROWS_A_NOTICE = 1000  # rows between two calls of `progress`


def lengths(
    rows: str | Path | Iterable[Mapping[str, Any]],
    tokenizer: Any = None,
    *,
    unit: str = "characters",
    question: LengthOptions | None = None,
    run: Run | None = None,
) -> Report:
    """The predicted output lengths under each normalization, from the data alone; no model is run.

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
        >>> report.document.headlines[0].split(":")[0]
        'This data cannot tell how far a normalization moves the output length'
    """
    from sftloss.analysis import LengthColumns, LengthOptions, describe_lengths, row_lengths
    from sftloss.data import Examples, encoding_of
    from sftloss.data.account import ROW_RULES
    from sftloss.report import Report
    from sftloss.report.language import in_language

    run, question = run or Run(), question or LengthOptions()
    if unit not in _UNITS:
        raise ConfigError(f"must be {' or '.join(_UNITS)}, got {unit!r}", option="unit")
    if tokenizer is None and (option := next(_of_tokens_alone(run), None)):
        raise ConfigError("only changes tokens", option=option, cure=f"give a {mention('tokenizer')} with it")
    records = records_of(rows, run)
    examples = Examples(records, tokenizer, **encoding_of(run))
    with folder(run, rows, resumes=False) as place:
        measured = _Measured(LengthColumns())
        by_text = _of_text(records, unit)
        by_tokens = ((row_lengths(example), example.origin, "tokens") for example in examples)
        for row in by_text if tokenizer is None else by_tokens:
            measured.add(*row)
            if run.progress is not None and len(measured.rows) % _ROWS_A_NOTICE == 0:
                run.progress(len(measured.rows), None)
        question = replace(question, unit=measured.unit or "tokens")
        lengths_of_rows = measured.columns.lengths()
        document = describe_lengths(lengths_of_rows, question, origins=measured.origins, facts=records.account.facts())
        findings = by_severity((*document.findings, *findings_of(ROW_RULES, records.account)))
        document = replace(document, findings=findings, provenance=(*run.provenance, *document.provenance))
        report = Report(in_language(document, run.lang))
        place.write(report)
    return report


def _of_tokens_alone(run: Run) -> Iterator[str]:
    """Options of how rows become tokens that are not at their defaults."""
    from sftloss.data import encoding_of

    return (name for name, value in encoding_of(run).items() if value != getattr(Run, name, {}))


@dataclass
class _Measured:
    """What the rows measured so far add up to: their lengths, and where each came from."""

    columns: LengthColumns
    unit: str = ""
    rows: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("q"))
    paths: array[int] = field(default_factory=lambda: array("q"))
    files: dict[str, int] = field(default_factory=dict)

    def add(self, row: RowLengths, origin: Origin, unit: str) -> None:
        if self.unit != unit:
            if self.unit:
                raise DataError(
                    f"the row counts {unit}, those before it {self.unit}",
                    where=origin,
                    cure=f"give a {mention('tokenizer')} to count all in tokens",
                )
            self.unit = unit
        self.columns.add(row)
        self.rows.append(origin.row)
        self.lines.append(-1 if origin.line is None else origin.line)
        self.paths.append(self.files.setdefault(origin.path, len(self.files)))

    def origins(self, ids: np.ndarray) -> tuple[str, ...]:
        from sftloss.data import Origin

        files, lines = list(self.files), [line if line >= 0 else None for line in self.lines]
        return tuple(str(Origin(files[self.paths[i]], self.rows[i], lines[i])) for i in ids.tolist())


def _of_text(records: Records, unit: str) -> Iterator[tuple[RowLengths, Origin, str]]:
    """Characters or words of what is trained; tokens where rows bring them."""
    for record in records:
        if record.tokens is not None:
            yield _of_tokens(record), record.origin, "tokens"
        else:
            yield _of_words(record, unit), record.origin, unit


def _of_words(record: Record, unit: str) -> RowLengths:
    from sftloss.analysis import AnswerLength, RowLengths

    messages, size, other = record.messages or (), 0.0, 0.0
    answers, hashed = [], hashlib.blake2b(json.dumps(record.tools, default=str).encode(), digest_size=8)
    for message in messages:
        is_answer = message.role == "assistant"
        weight = float(is_answer) if message.weight is None else message.weight
        length = _count(message, unit) if weight > 0 else 0
        size += weight * length
        other += 0 if is_answer else length
        if is_answer:
            answers.append(AnswerLength(float(length), _prompt_code(hashed)))
        hashed.update(json.dumps([message.role, message.content, message.tool_calls], default=str).encode())
    if record.text is not None:  # trained whole, without a prompt
        size = float(_count_text(record.text, unit))
        answers.append(AnswerLength(size, -1))
    size = size if record.weight > 0 else 0.0  # a row marked as wrong has no length to learn
    return RowLengths(size, tuple(answers), other, record.task, record.weight)


def _of_tokens(record: Record) -> RowLengths:
    """Pre-tokenized rows need no tokenizer to be counted; without one a stretch of labels is an answer."""
    from sftloss.analysis import AnswerLength, RowLengths

    tokens = record.tokens or {}
    ids = list(tokens["input_ids"])
    labels, weights = tokens.get("labels"), tokens.get("weights")
    weight = [1.0] * len(ids) if weights is None else [float(w) for w in weights]
    if len(weight) != len(ids) or (labels is not None and len(labels) != len(ids)):
        raise DataError(f"{record.origin}: input_ids, labels and weights differ in length; repair the row.")
    if labels is not None:
        weight = [w if label != -100 else 0.0 for w, label in zip(weight, labels, strict=True)]
    weight[:1] = [0.0] * len(weight[:1])  # the first token is never predicted
    answers, hashed, at = [], hashlib.blake2b(digest_size=8), 0
    edges = [i for i in range(len(ids) + 1) if (i < len(ids) and weight[i] > 0) != (i > 0 and weight[i - 1] > 0)]
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        hashed.update(array("q", ids[at:start]).tobytes())
        at = start
        answers.append(AnswerLength(float(stop - start), _prompt_code(hashed) if start > 1 else -1))
    size = sum(weight) if record.weight > 0 else 0.0
    return RowLengths(size, tuple(answers), 0.0, record.task, record.weight)


def _count(message: Message, unit: str) -> int:
    """What the answer writes: its words, its reasoning and its calls."""
    calls = (json.dumps(call, ensure_ascii=False, default=str) for call in message.tool_calls)
    return sum(_count_text(text, unit) for text in (message.content, message.reasoning or "", *calls))


def _count_text(text: str, unit: str) -> int:
    return len(text) if unit == "characters" else len(text.split())


def _prompt_code(hashed: Any) -> int:
    """63 bits of a running hash: equal for equal beginnings."""
    return int.from_bytes(hashed.digest(), "big") >> 1
