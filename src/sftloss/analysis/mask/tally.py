"""What an inspection counts over the examples: counters, first places, 64 bytes a row."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sftloss.analysis.mask.audit import Audit
from sftloss.data import Example, Origin, Places, Record, answer_spans
from sftloss.roles import ROLES


@dataclass
class Ledger:
    """Of every example: a hash, three lengths and its origin, as machine numbers; `whole` is before truncation.

    Of every trained answer that is not cut off: hashes of its `prompts` (0 for none) and of its `words`, its `lengths`
    in tokens and its `owners`, the example.
    """

    prompts: array[int] = field(default_factory=lambda: array("q"))
    words: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("i"))
    owners: array[int] = field(default_factory=lambda: array("i"))
    contents: array[int] = field(default_factory=lambda: array("q"))
    tokens: array[int] = field(default_factory=lambda: array("i"))
    whole: array[int] = field(default_factory=lambda: array("i"))
    trained: array[int] = field(default_factory=lambda: array("i"))
    files: array[int] = field(default_factory=lambda: array("i"))
    rows: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("q"))
    paths: dict[str, int] = field(default_factory=dict)

    def add(self, record: Record, example: Example, audit: Audit) -> None:
        origin = example.origin
        self._add_answers(example)
        # rows that differ only in what is not rendered, or in what is cut off, are no copies of each other
        written = repr((record.messages, record.text, record.tools)).encode()
        self.contents.append(
            _hash(example.input_ids.numpy().tobytes(), (example.weights != 0).numpy().tobytes(), written)
        )
        self.tokens.append(len(audit.trained))
        self.whole.append(len(audit.trained) + example.truncated)
        self.trained.append(sum(audit.trained))
        self.files.append(self.paths.setdefault(origin.path, len(self.paths)))
        self.rows.append(origin.row)
        self.lines.append(-1 if origin.line is None else origin.line)

    def _add_answers(self, example: Example) -> None:
        owner, last = len(self.contents), len(example.roles)
        for (start, stop), prompt in zip(answer_spans(example), example.prompts, strict=True):
            is_cut = example.truncated and stop == last and not bool(example.is_end[stop - 1])
            length = int((example.weights[start:stop] != 0).sum())
            if length and not is_cut:
                self.prompts.append(prompt)
                self.words.append(_hash(example.input_ids[start:stop].numpy().tobytes()))
                self.lengths.append(length)
                self.owners.append(owner)

    def numbers(self, name: str) -> NDArray[np.int64]:
        return np.asarray(getattr(self, name), dtype=np.int64)

    def origin(self, index: int) -> str:
        line = self.lines[index]
        path = list(self.paths)[self.files[index]]
        return str(Origin(path, self.rows[index], None if line < 0 else line))


def _hash(*parts: bytes) -> int:
    """63 bits of what the parts hold."""
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "big") >> 1


@dataclass
class MaskTally:
    """Everything counted over the examples in one pass.

    Attributes:
        faults: Faults of the audit, by id.
        methods: How the trained tokens were found, as in `Example.method`.
        languages: Language or script of the answers.
        crossings: Pairs of scripts of a prompt and its answer, where they differ.
        by_role: Of each role its tokens, trained tokens and summed weight, ``(roles, 3)``.
        by_weight: Trained tokens by their weight, to three digits.
        ledger: Some numbers of each example.
        strays: Trained tokens in the words of others than the assistant.
        with_end: Examples that train the end of their last answer.
    """

    faults: Places = field(default_factory=Places)
    methods: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    crossings: Places = field(default_factory=Places)
    by_role: NDArray[np.float64] = field(default_factory=lambda: np.zeros((len(ROLES), 3)))
    by_weight: Counter[str] = field(default_factory=Counter)
    ledger: Ledger = field(default_factory=Ledger)
    strays: int = 0
    with_end: int = 0

    def add(self, record: Record, example: Example, audit: Audit) -> None:
        self.methods[example.method] += 1
        for fault in audit.faults:
            self.faults.add(fault, example.origin)
        self.ledger.add(record, example, audit)
        roles = example.roles.numpy()
        for column, weight in enumerate((None, np.asarray(audit.trained), example.weights.numpy())):
            self.by_role[:, column] += np.bincount(roles, weight, len(ROLES))
        for weight, count in zip(*np.unique(example.weights.numpy(), return_counts=True), strict=True):
            self.by_weight[f"{weight:.3g}"] += int(count)
        self.strays += audit.strays
        self.with_end += audit.trains_end

    def add_languages(self, origin: Origin, prompt: str | None, answer: str) -> None:
        """Count the language of an answer, and whether it is in another script than its prompt."""
        self.languages[answer] += 1
        if prompt is not None and prompt != answer:
            self.crossings.add(f"{prompt} to {answer}", origin)

    @property
    def examples(self) -> int:
        return len(self.ledger.tokens)

    @cached_property
    def copies(self) -> NDArray[np.int64]:
        """The examples that repeat an earlier one exactly; read it after the pass."""
        rows = self.ledger.numbers("contents")
        return np.setdiff1d(np.arange(len(rows)), np.unique(rows, return_index=True)[1])

    @property
    def tokens(self) -> int:
        return int(self.by_role[:, 0].sum())

    @property
    def trained(self) -> int:
        return int(self.by_role[:, 1].sum())
