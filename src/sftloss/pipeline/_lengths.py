"""From rows to the lengths of their answers, with or without a tokenizer, to the page about them."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftloss.errors import ConfigError, DataError
from sftloss.pipeline._folder import folder
from sftloss.pipeline._rows import Examples
from sftloss.pipeline._run import Run

if TYPE_CHECKING:
    import numpy as np

    from sftloss.analysis import LengthOptions, Lengths
    from sftloss.data import Example, Message, Origin, Record, Records
    from sftloss.report import Report

_UNITS = ("characters", "words")
_SEVERITY = {"error": 0, "warning": 1, "info": 2}
_TOLD = 1000  # rows between two words on progress


def lengths(
    rows: str | Path | Iterable[Mapping[str, Any]],
    tokenizer: Any = None,
    *,
    unit: str = "characters",
    question: LengthOptions | None = None,
    run: Run | None = None,
) -> Report:
    """Which output lengths each normalisation teaches, from the data alone; no model is run.

    Args:
        rows: A data file, a folder, a hub data set, or rows as mappings, in any of the usual formats.
        tokenizer: A transformers tokenizer: lengths then count the tokens that training divides by. None counts
            `unit` in the text of the answers, which is as good as the tokens of each are equally many.
        unit: ``"characters"`` or ``"words"`` (between blanks), where there is no tokenizer. Pre-tokenised rows are
            counted in tokens in any case.
        question: The normalisations, the size of a step, a wanted mean length. Its `unit` is set here.
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
        findings = tuple(sorted((*document.findings, *account.findings()), key=lambda one: _SEVERITY[one.severity]))
        told = (("command", run.command),) if run.command else ()
        report = Report(replace(document, findings=findings, provenance=(*told, *document.provenance)))
        place.write(report)
    return report


@dataclass(frozen=True)
class _Measured:
    """One row: T, the answer's length, a hash of the prompt."""

    size: float
    output: float
    other: float  # trained length of other roles than the answer
    prompt: int
    task: str | None
    origin: Origin
    unit: str


@dataclass
class _Found:
    """Columns of numbers, eight bytes a cell, however many rows there are."""

    unit: str = "tokens"
    size: array[float] = field(default_factory=lambda: array("d"))
    output: array[float] = field(default_factory=lambda: array("d"))
    other: array[float] = field(default_factory=lambda: array("d"))
    prompts: array[int] = field(default_factory=lambda: array("q"))
    tasks: array[int] = field(default_factory=lambda: array("q"))
    rows: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("q"))
    paths: array[int] = field(default_factory=lambda: array("q"))
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
        self.size.append(row.size)
        self.output.append(row.output)
        self.other.append(row.other)
        self.prompts.append(row.prompt)
        self.tasks.append(self.names.setdefault(row.task, len(self.names)))
        self.rows.append(row.origin.row)
        self.lines.append(-1 if row.origin.line is None else row.origin.line)
        self.paths.append(self.files.setdefault(row.origin.path, len(self.files)))

    def lengths(self) -> Lengths:
        import numpy as np

        from sftloss.analysis import Lengths

        # as in the analysis of a model: where no answer is trained, what is trained is the output
        output = np.asarray(self.output) if any(self.output) else np.asarray(self.other)
        tasks = np.asarray(self.tasks) if len(self.names) > 1 else None
        return Lengths(np.arange(len(self.size)), np.asarray(self.size), output, np.asarray(self.prompts), tasks)

    def origins(self, ids: np.ndarray) -> tuple[str, ...]:
        files = list(self.files)
        return tuple(self._origin(files[self.paths[i]], i) for i in ids.tolist())

    def _origin(self, path: str, i: int) -> str:
        return f"{path}:{self.lines[i]}" if self.lines[i] >= 0 else f"{path} row {self.rows[i]}"


def _of_examples(examples: Iterable[Example]) -> Iterator[_Measured]:
    """Tokens, exactly as training sees them."""
    from sftloss.data import ROLES

    response = ROLES.index("response")
    for example in examples:
        trained = example.weights > 0
        answer = int((trained & (example.roles == response)).sum())
        size, other = float(example.weights.sum()), int(trained.sum()) - answer
        yield _Measured(size, answer, other, example.prompt_hash, example.task, example.origin, "tokens")


def _of_text(records: Records, account: Examples, unit: str) -> Iterator[_Measured]:
    """Characters or words of what is trained; tokens where rows bring them."""
    for record in records:
        account.used += 1
        yield _of_tokens(record) if record.tokens is not None else _of_words(record, unit)


def _of_words(record: Record, unit: str) -> _Measured:
    messages, size, answer, other, last = record.messages or (), 0.0, 0.0, 0.0, 0
    for at, message in enumerate(messages):
        is_answer = message.role == "assistant"
        weight = float(is_answer) if message.weight is None else message.weight
        length = _count(message, unit) if weight > 0 else 0
        size += weight * length
        answer, other = (answer + length, other) if is_answer else (answer, other + length)
        last = at if is_answer and length else last
    if record.text is not None:  # trained whole
        size = answer = float(_count_text(record.text, unit))
    before = [(m.role, m.content, m.tool_calls) for m in messages[:last]]
    prompt = _hash(json.dumps([before, record.tools], default=str, ensure_ascii=True))
    return _Measured(size * record.weight, answer, other, prompt, record.task, record.origin, unit)


def _of_tokens(record: Record) -> _Measured:
    """Pre-tokenised rows need no tokenizer to be counted. The first token is never predicted."""
    tokens = record.tokens or {}
    ids = list(tokens["input_ids"])
    labels, weights = tokens.get("labels"), tokens.get("weights")
    weight = [1.0] * len(ids) if weights is None else [float(w) for w in weights]
    if len(weight) != len(ids) or (labels is not None and len(labels) != len(ids)):
        raise DataError(f"{record.origin}: input_ids, labels and weights differ in length; repair the row.")
    if labels is not None:
        weight = [w if label != -100 else 0.0 for w, label in zip(weight, labels, strict=True)]
    weight[:1] = [0.0] * len(weight[:1])
    trained = [w > 0 for w in weight]
    start = len(trained)
    while start and not trained[start - 1]:
        start -= 1
    while start and trained[start - 1]:
        start -= 1
    prompt = _hash(json.dumps([int(i) for i in ids[:start]]))
    size, count = sum(weight) * record.weight, float(sum(trained))
    return _Measured(size, count, 0.0, prompt, record.task, record.origin, "tokens")


def _count(message: Message, unit: str) -> int:
    """What the answer writes: its words, its reasoning and its calls."""
    calls = (json.dumps(call, ensure_ascii=False, default=str) for call in message.tool_calls)
    return sum(_count_text(text, unit) for text in (message.content, message.reasoning or "", *calls))


def _count_text(text: str, unit: str) -> int:
    return len(text) if unit == "characters" else len(text.split())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
