"""A data file as examples the Trainer can draw: read, held out, packed, in an order that the seed alone decides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from sftloss.data import Example, Examples, collate, encoding_of, first_fit_decreasing, read_records, spoken_roles
from sftloss.data.account import NOTE_RULES, Account
from sftloss.data.overlap import overlap_findings
from sftloss.data.reasons import ROW_REASONS
from sftloss.errors import ConfigError, DataError, mention
from sftloss.finetune.recipe import Recipe
from sftloss.reference import References
from sftloss.roles import RESPONSE
from sftloss.rules import findings_of
from sftloss.training import Loss, inputs_of
from sftloss.training.batch.made import Made, losses_without
from sftloss.words import agreeing, counted

Row = tuple[tuple[int, Example], ...]


@dataclass(frozen=True)
class DataSet:
    """Examples in memory, about 14 bytes a token, and the rows the Trainer draws, each of one or more packed examples.

    Attributes:
        examples: In the order of the data.
        rows: Indices into `examples` of each row.
        source: Where they came from.
        account: What became of each row of the source; None for examples made before.
    """

    examples: tuple[Example, ...]
    rows: tuple[tuple[int, ...], ...]
    source: str
    account: Account | None = None

    @classmethod
    def of(cls, examples: Sequence[Example], source: str, account: Account | None = None) -> DataSet:
        """Each example as a row of its own."""
        return cls(tuple(examples), tuple((i,) for i in range(len(examples))), source, account)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return tuple((i, self.examples[i]) for i in self.rows[index])

    def names(self, of: str) -> tuple[str, ...]:
        """Every task or language there is, sorted."""
        return tuple(sorted({name for e in self.examples if (name := getattr(e, of)) is not None}))

    @property
    def refused(self) -> dict[str, int]:
        """Number of rows that cannot be trained on, by reason."""
        return {} if self.account is None else self.account.refused

    def counts(self) -> dict[str, int]:
        """Examples, rows that the Trainer draws, tokens, and examples that were truncated."""
        return {
            "examples": len(self.examples),
            "rows": len(self),
            "tokens": sum(len(e.input_ids) for e in self.examples),
            "trained_tokens": sum(int((e.weights != 0).sum()) for e in self.examples),
            "truncated": sum(e.truncated > 0 for e in self.examples),
        }

    def facts(self) -> dict[str, Any]:
        """Where the rows came from, how many, and a digest of the tokens and weights they became."""
        return {"source": self.source, "digest": self.digest(), **self.counts(), "tasks": list(self.names("task"))}

    def digest(self) -> str:
        """Of what is trained: tokens, weights, roles and groups, whatever file, template or cut they came from."""
        digest = hashlib.sha256()
        for e in self.examples:
            for tensor in (e.input_ids, e.weights, e.roles):
                digest.update(tensor.contiguous().numpy().tobytes())
            digest.update(repr((e.task, e.language, *([e.row_weight] if e.row_weight != 1 else []))).encode())
        return digest.hexdigest()


def read(recipe: Recipe, source: Any, tokenizer: Any) -> DataSet:
    """The examples of a source: a path, a name, rows as mappings, or examples made before.

    Raises:
        DataError: If no row can be trained on, or most cannot.
    """
    if not isinstance(source, str):
        source = list(source)
    if not isinstance(source, str) and source and isinstance(source[0], Example):
        examples, account, name = source, None, "examples"
    else:
        records = read_records(
            source, format=recipe.format, columns=recipe.columns, on_error=recipe.on_error, limit=recipe.max_examples
        )
        stream = Examples(records, tokenizer, **encoding_of(recipe))
        examples, account, name = list(stream), stream.account, source if isinstance(source, str) else "rows"
    if not examples:
        raise DataError("there is no row to train on", cure="give at least one")
    if recipe.roles is not None:
        examples = [_with_every_role(example) for example in examples]
    return DataSet.of(examples, name, account)


def rows_account(data: DataSet, held_out: DataSet | None = None) -> dict[str, Any]:
    """What became of the rows of a source: read, used, held out, refused by reason with the first places, truncated.

    Args:
        data: The rows trained on.
        held_out: The part of the same source that was held out.
    """
    account, is_share = data.account, held_out is not None and held_out.account is data.account
    used = len(data.examples) + (len(held_out.examples) if held_out is not None and is_share else 0)
    parts = (data, held_out) if held_out is not None and is_share else (data,)
    cuts = account.cuts.counts if account is not None else {}
    return {
        "source": data.source,
        "read": used if account is None else account.rows,
        "trained_on": len(data.examples),
        "held_out": used - len(data.examples),
        "refused": {} if account is None else {
            name: {"rows": count, "first": [*account.reasons.rows(name)], "reason": ROW_REASONS[name].sentence}
            for name, count in account.refused.items()
        },
        "left_out": 0 if account is None else account.reasons.counts["longer-than-kept"],
        "truncated": sum(e.truncated > 0 for part in parts for e in part.examples),
        "end_of_answer_lost": cuts.get("end lost", 0),
        "tokens_cut": sum(e.truncated for part in parts for e in part.examples),
        "is_cut_short": account is not None and account.limited,
        "findings": [] if account is None else [f"{f.id}: {f.sentence}" for f in findings_of(NOTE_RULES, account)],
    }  # fmt: skip


def rows_accounts(data: DataSet, held_out: DataSet | None) -> list[dict[str, Any]]:
    """The account of each source: one, or two where held-out rows have a source of their own."""
    is_share = held_out is not None and held_out.account is data.account
    if held_out is None or is_share:
        return [rows_account(data, held_out)]
    of_held_out, leaked = rows_account(held_out), overlap_findings(data.examples, held_out.examples)
    of_held_out["findings"] += [f"{finding.id}: {finding.sentence}" for finding in leaked]
    return [rows_account(data), of_held_out]


def account_lines(account: Mapping[str, Any]) -> list[str]:
    """The account of :func:`rows_account` as sentences."""
    refused = sum(reason["rows"] for reason in account["refused"].values())
    first = "the first " if account["is_cut_short"] else ""
    left_out = f"{account['left_out']:,} left out as too long, " if account["left_out"] else ""
    lines = [
        f"{account['source']}: {first}{account['read']:,} rows read, {account['trained_on']:,} trained on, "
        f"{account['held_out']:,} held out, {refused:,} refused, {left_out}{account['truncated']:,} truncated."
    ]
    for name, reason in account["refused"].items():
        places = ", ".join(reason["first"][:3])
        lines.append(f"  {reason['rows']:,} refused ({name}): {reason['reason']}. First: {places}.")
    if account["truncated"]:
        lost, tokens = account["end_of_answer_lost"], counted(account["tokens_cut"], "token")
        lose = "row loses the end of its last answer" if lost == 1 else "rows lose the end of their last answer"
        lines.append(f"  {tokens} cut off; {lost:,} {lose}.")
    lines += [f"  {sentence}" for sentence in account["findings"]]
    if account["is_cut_short"]:
        lines.append(f"  Rows behind the first {account['read']:,} are left out ({mention('max_examples')}).")
    return lines


def _with_every_role(example: Example) -> Example:
    """Weights of all roles, for role weights to multiply: where the data trains nothing but answers, the others get
    the row's largest weight. An answer that the data does not train stays untrained."""
    is_answer = spoken_roles(example.roles, example.weights != 0) == RESPONSE
    weights = torch.where(is_answer | (example.weights != 0), example.weights, example.weights.max())
    weights[0] = 0.0
    return replace(example, weights=weights)


def check_vocabulary(config: Any, *parts: DataSet | None) -> None:
    """Refuse token ids that the model has no embedding for.

    Raises:
        DataError: At the first one.
    """
    size = int(getattr(config.get_text_config(), "vocab_size", 2**31))
    for example in (example for part in parts if part is not None for example in part.examples):
        if len(example.input_ids) and (largest := int(example.input_ids.max())) >= size:
            problem = f"token {largest} is outside the model's vocabulary of {size:,}"
            cure = "tokenize the row with the tokenizer that the model was made for"
            raise DataError(problem, where=example.origin, cure=cure)


def check_marks(loss: Loss, *parts: DataSet | None) -> None:
    """Refuse rows with text marked as wrong where the loss would train it as right, or divide by weights below zero.

    A loss that reads marks is refused where no row has any.

    Raises:
        ConfigError: If there is one.
    """
    reads_marks, others = "is_negative" in loss.extras, losses_without(loss.function, "is_negative")
    if not (reads_marks or loss.normalizer == "weights"):
        return
    marked = [e for part in parts if part is not None for e in part.examples if bool((e.weights < 0).any())]
    if not marked and reads_marks:
        problem = f"{loss.objective} reads which text is wrong, and no row marks any"
        raise ConfigError(problem, option="loss", cure='give wrong answers "is_negative": true in the data')
    if not marked or (reads_marks and not others):
        return
    rows = f"{counted(len(marked), 'row')} {agreeing(len(marked), 'have')} text marked as wrong"
    rows += f", the first at {marked[0].origin}"
    alone = mention("loss", "unlikelihood")
    if reads_marks:
        problem = f"{rows}, and {others[0]} in {loss.objective} would train it as right"
        cure = f"write {alone} alone, which trains right answers by cross-entropy itself"
        raise ConfigError(problem, option="loss", cure=cure)
    problem = f"{rows}, and {loss.objective} does not read the marks"
    cure = f"lower its probability with {alone}, give it no gradient with "
    cure += f"{mention('loss', 'unlikelihood(alpha=0)')}, or give it a negative gradient with "
    raise ConfigError(problem, option="loss", cure=f"{cure}{mention('normalizer', 'tokens')}")


def hold_out(data: DataSet, share: float, seed: int) -> tuple[DataSet, DataSet]:
    """Two parts, the second about `share` of the rows, by seed; rows with the same prompt are on one side.

    Raises:
        ConfigError: If one part would be empty.
    """
    groups: dict[Any, list[int]] = {}
    for i, example in enumerate(data.examples):
        groups.setdefault(_prompt(example) or f"row {i}", []).append(i)
    order = list(groups.values())
    Random(f"hold out {seed}").shuffle(order)
    room, chosen = round(share * len(data.examples)), set[int]()
    for group in order:
        if len(group) <= room - len(chosen):
            chosen.update(group)
    if not chosen or len(chosen) == len(data.examples):
        problem = f"{share:g} of {len(data.examples)} rows with {len(order)} different prompts leaves one part empty"
        cure = f"choose another share, or give {mention('eval_data')}"
        raise ConfigError(problem, option="eval_share", cure=cure)
    trained, held_out = (
        DataSet.of([e for i, e in enumerate(data.examples) if (i in chosen) == is_held], data.source, data.account)
        for is_held in (False, True)
    )
    return trained, held_out


def _prompt(example: Example) -> bytes:
    """The tokens before the last answer; empty where the data has no prompt."""
    trained = torch.nonzero((spoken_roles(example.roles, example.weights != 0) == RESPONSE).diff() > 0)
    start = int(trained[-1]) + 1 if len(trained) else 0
    return example.input_ids[:start].numpy().tobytes()


def pack(data: DataSet, capacity: int) -> DataSet:
    """The same examples in rows of at most `capacity` tokens, packed 1,024 at a time."""
    lengths = [len(example.input_ids) for example in data.examples]
    rows: list[tuple[int, ...]] = []
    for start in range(0, len(lengths), 1024):
        bins = first_fit_decreasing(lengths[start : start + 1024], capacity)
        rows += sorted(tuple(sorted(start + i for i in row)) for row in bins)
    return replace(data, rows=tuple(rows))


class Order:
    """The order of the rows in an epoch, from seed and epoch alone: the same for every loss and number of ranks."""

    def __init__(self, rows: int, *, seed: int) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.rows))
        Random(f"{self.seed} epoch {self.epoch}").shuffle(order)
        return iter(order)


@dataclass(frozen=True)
class Collator:
    """Rows to what an attached model takes, with `example_ids`, where the data has tasks with `tasks`, and with the
    columns `extras` of the reference models and those that are `made` of the rows."""

    pad_id: int
    packed: bool = False
    tasks: tuple[str, ...] = ()
    references: References | None = None
    extras: tuple[str, ...] = ()
    made: Made = Made()

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        examples = [[example for _, example in row] for row in rows]
        packed = self.packed and any(len(row) > 1 for row in rows)
        batch = collate(examples, pad_id=self.pad_id, packed=packed)
        if self.references is not None:
            batch = self.references.lay(batch, self.extras)
        if self.made.names:
            batch = self.made.lay(batch)
        inputs = inputs_of(batch)
        inputs["example_ids"] = _spread([i for row in rows for i, _ in row], batch.segments)
        if self.tasks:
            index = {name: i for i, name in enumerate(self.tasks)}
            inputs["tasks"] = _spread([index.get(e.task or "", -1) for e in batch.examples], batch.segments)
        return inputs


def _spread(values: Sequence[int], segments: Tensor) -> Tensor:
    """One value an example as one a position, -1 on padding."""
    return torch.where(segments >= 0, torch.tensor(values)[segments.clamp(min=0)], -1)
