"""The sections of an inspection: what is trained by role, lengths, languages, rows that cannot be used; its strips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from sftloss.analysis.mask.tally import MaskTally
from sftloss.analysis.shared.shares import cell
from sftloss.analysis.shared.words import label_of
from sftloss.data import ROW_REASONS, Account, Example
from sftloss.data.reasons import plain_detail
from sftloss.data.tokenizer import characters
from sftloss.document import Cell, Chart, Column, Command, Finding, Section, Series, Table, TokenStrip
from sftloss.errors import as_flag
from sftloss.roles import ROLES
from sftloss.words import agreeing, counted, number, percent

QUANTILES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)
_NAMES = ("least", "10 %", "median", "90 %", "99 %", "most")
_MOST_WEIGHTS = 12
LONGEST_TRAINED, LONGEST_UNTRAINED = 60, 36

_Piece = tuple[str, str, float]


def verdict_section(tally: MaskTally, account: Account, findings: Sequence[Finding]) -> Section:
    """The verdict, what was checked with its number, what to do about it, and the next command."""
    cures = {finding.id: finding.fix for finding in findings if finding.severity != "info"}
    lead, command = "These rows can be trained on as they are: there is no error and no warning.", Command("analyze")
    advice = [finding.id for finding in findings if finding.severity == "info" and finding.fix]
    if advice:
        lead += f" {counted(len(advice), 'note')} {agreeing(len(advice), 'give')} advice: {', '.join(advice)}, below."
    if cures:
        asks = f"{counted(len(cures), 'finding')} {agreeing(len(cures), 'ask')}"
        lead = f"Change the data or the options first: {asks} for it ({', '.join(cures)}, below)."
        command = Command("inspect")
    cut = int((tally.ledger.numbers("whole") > tally.ledger.numbers("tokens")).sum())

    def row(checked: str, result: str, *ids: str) -> tuple[Cell, ...]:
        return checked, result, next((cures[id] for id in ids if id in cures), "")

    refused = {ROW_REASONS[name].code for name in account.refused} - {"MASK007"}
    in_answers = percent(float(tally.by_role[ROLES.index("response"), 1] / tally.trained))
    with_end = percent(tally.with_end / tally.examples)
    rows = (
        row("usable rows", f"{tally.examples:,} of {account.rows:,}", *sorted(refused)),
        row("examples that are cut off", f"{cut:,} of {tally.examples:,}", "MASK007"),
        row("examples whose end is trained", with_end, "MASK003", "MASK008"),
        row("trained tokens that are in answers", in_answers, "MASK010", "MASK002", "MASK012"),
        row("rows that repeat an earlier row", f"{len(tally.copies):,} of {tally.examples:,}", "DATA102"),
        ("next: see what each loss trains" if not cures else "next: check again after the change", "", command),
    )
    columns = (Column("checked", "checked"), Column("result", "result"), Column("do", "what to do"))
    table = Table("answer", "What was checked", columns, rows)
    return Section("answer", "Answer", lead, charts=(_histogram(tally),), tables=(table,))


def trained_section(tally: MaskTally, strips: tuple[TokenStrip, ...]) -> Section:
    """What is trained of each role, and the first examples token by token."""
    columns = (
        Column("role", "role"),
        Column("tokens", "tokens", "integer"),
        Column("trained", "trained", "integer"),
        Column("own", "of its tokens", "percent", "share of the role's tokens that are trained"),
        Column("part", "of all trained", "percent", "share of all trained tokens"),
        Column("weight", "of the weight", "percent", "share of the summed weight"),
    )
    tokens, trained, weight = tally.by_role.sum(axis=0)
    rows: list[tuple[Cell, ...]] = []
    for role, (n, t, w) in zip(ROLES, tally.by_role, strict=True):
        if n:
            shares = (t / n, t / trained if trained else None, w / weight if weight else None)
            rows.append((role, int(n), int(t), *(cell(share) for share in shares)))
    rows.append(("all roles", int(tokens), int(trained), cell(trained / tokens if tokens else None), 1.0, 1.0))
    note = "The template's own words (openers, separators) count as prompt."
    how = ", ".join(f"{name} ({count:,})" for name, count in tally.methods.most_common())
    lead = f"{percent(trained / tokens)} of the tokens are trained. Found by: {how}."
    table = Table("by-role", "By role", columns, tuple(rows), note)
    return Section("trained", "What is trained", lead, tables=(table, *_weights_table(tally)), strips=strips)


def _weights_table(tally: MaskTally) -> tuple[Table, ...]:
    """Trained tokens by weight, where the data or an option gives other weights than 1."""
    counts = {float(weight): count for weight, count in tally.by_weight.items() if float(weight)}
    if counts.keys() <= {1.0}:
        return ()
    total, whole = sum(weight * n for weight, n in counts.items()), sum(counts.values())
    shown = sorted(sorted(counts, key=lambda weight: -counts[weight])[:_MOST_WEIGHTS])
    columns = (
        Column("of", "weight", "number"),
        Column("n", "trained tokens", "integer"),
        Column("part", "of all trained", "percent", "share of all trained tokens"),
        Column("sum", "of the weight", "percent", "share of the summed weight"),
    )
    rows = tuple((w, counts[w], counts[w] / whole, cell(w * counts[w] / total if total else None)) for w in shown)
    note = "The weights of row, message and token multiplied, as the data and the options give them."
    if len(counts) > len(shown):
        note += f" The {len(shown)} most frequent of {len(counts):,} weights are listed."
    return (Table("by-weight", "By weight", columns, rows, note),)


def totals_section(tally: MaskTally, account: Account, *, batch_size: int | None, grad_accum: int | None) -> Section:
    """Counts of rows, examples and tokens, and of the steps of an epoch."""
    left_out = account.reasons.counts["longer-than-kept"]
    rows: list[tuple[Cell, ...]] = [
        ("rows read", account.rows),
        ("rows that cannot be used", account.unusable),
        *((("rows left out as too long", left_out),) if left_out else ()),
        ("examples", tally.examples),
        ("tokens", tally.tokens),
        ("trained tokens", tally.trained),
        ("truncated examples", account.truncated),
        ("tokens cut off", account.cut_tokens),
    ]
    if batch_size is not None:
        step = batch_size * (grad_accum or 1)
        rows.append(("micro-batches per epoch", math.ceil(tally.examples / batch_size)))
        rows.append((f"steps per epoch, {step} examples each", math.ceil(tally.examples / step)))
    columns = (Column("what", "what"), Column("count", "count", "integer"))
    table = Table("totals", "Counts", columns, tuple(rows))
    share = percent(tally.trained / tally.tokens) if tally.tokens else "none"
    counts = f"{counted(tally.examples, 'example')}, {counted(tally.tokens, 'token')}"
    lead = f"{counts}, {tally.trained:,} of them trained ({share})."
    return Section("totals", "What training would read", lead, tables=(table,))


def lengths_section(tally: MaskTally) -> Section:
    """Quantiles of prompt and response length."""
    whole, trained = tally.ledger.numbers("tokens"), tally.ledger.numbers("trained")
    kinds = (("trained", trained), ("not trained", whole - trained), ("all tokens", whole))
    columns = (
        Column("tokens", "tokens of an example"),
        Column("mean", "mean", "number"),
        *(Column(f"q{i}", name, "integer") for i, name in enumerate(_NAMES)),
    )
    rows: list[tuple[Cell, ...]] = []
    for name, lengths in kinds:
        at = np.quantile(lengths, QUANTILES, method="inverted_cdf")
        rows.append((name, cell(float(lengths.mean())), *(int(v) for v in at)))
    note = "With prompts untrained these are the lengths of responses and of prompts."
    table = Table("lengths", "In tokens", columns, tuple(rows), note)
    lead = (
        f"Trained tokens of an example: median {number(float(np.median(trained)))}, at most {int(trained.max()):,}. "
        f"The longest example has {int(whole.max()):,} tokens in all."
    )
    return Section("lengths", "Lengths", lead, tables=(table,))


def _histogram(tally: MaskTally) -> Chart:
    whole, trained = tally.ledger.numbers("tokens"), tally.ledger.numbers("trained")
    kinds = (("trained", trained), ("not trained", whole - trained))
    top = max(int(lengths.max()) for _, lengths in kinds)
    least = max(1, min(int(lengths.min()) for _, lengths in kinds))  # a length of 0 has a bar only where there is one
    powers = [2**k for k in range(least.bit_length() - 1, max(1, top).bit_length() + 1)]
    edges = [0, *powers] if any((lengths == 0).any() for _, lengths in kinds) else powers
    names = tuple(str(a) if b - a == 1 else f"{a:,} to {b - 1:,}" for a, b in zip(edges, edges[1:], strict=False))
    series, most = [], []
    for name, lengths in kinds:
        counts, _ = np.histogram(lengths, [edge - 0.5 for edge in edges])
        series.append(Series(name, names, tuple(float(c) / len(lengths) for c in counts)))
        most.append(f"{name}: most examples at {names[int(np.argmax(counts))]}")
    peaks = "; ".join(most)
    return Chart(
        "length-histogram",
        "bar",
        "How long examples are",
        "tokens",
        "share of examples",
        tuple(series),
        f"Share of examples by number of tokens. {peaks}.",
        scale_x="category",
        format_x="text",
        format_y="percent",
    )


def languages_section(tally: MaskTally) -> Section | None:
    """Only where there is more than one."""
    whole = sum(tally.languages.values())
    if len(tally.languages) < 2:
        return None
    columns = (Column("language", "language"), Column("n", "examples", "integer"), Column("share", "share", "percent"))
    groups = ((label_of("language", name), count) for name, count in tally.languages.most_common())
    rows = tuple((name, count, count / whole) for name, count in groups)
    table = Table("languages", "Answers by language", columns, rows, "Where a row names no language: its script.")
    most = ", ".join(f"{name} {percent(share)}" for name, _, share in rows[:3])
    return Section("languages", "Languages", f"Answers: {most}.", tables=(table,))


def refused_section(account: Account) -> Section | None:
    """Rows that cannot be used, by reason."""
    if not account.refused:
        return None
    columns = (
        Column("reason", "reason"),
        Column("rows", "rows", "integer"),
        Column("first", "first at"),
        Column("detail", "what is wrong there"),
    )
    rows = tuple(
        (
            f"{ROW_REASONS[name].code} {name}",
            count,
            account.reasons.rows(name)[0],
            plain_detail(account.reasons.details[name], as_flag),
        )
        for name, count in account.refused.items()
    )
    lead = f"{account.unusable:,} of {account.rows:,} rows cannot be used."
    table = Table("refused", "By reason", columns, rows)
    return Section("refused", "Rows that cannot be used", lead, tables=(table,))


def strip(example: Example, tokenizer: Any, *, title: str) -> TokenStrip:
    """The example with one measure, its weight as a part of the largest; pieces of one character stand together."""
    largest = float(example.weights.abs().max()) or 1.0
    values = [float(w) / largest for w in example.weights.abs().tolist()]
    pieces: list[_Piece] = []
    kinds = zip(example.input_ids.tolist(), example.roles.tolist(), values, strict=True)
    for (role, value), part in groupby(kinds, key=lambda kind: kind[1:]):
        texts = characters([token for token, _, _ in part], tokenizer)
        pieces += _shortened([(text, ROLES[role], value) for _, text in texts])
    shown, roles, shades = zip(*pieces, strict=True)
    return TokenStrip(title, ("weight",), shown, roles, (shades,))


def _shortened(pieces: list[_Piece]) -> list[_Piece]:
    """Both ends of a long stretch, and how much is between them."""
    _, role, value = pieces[0]
    most = LONGEST_TRAINED if value > 0 else LONGEST_UNTRAINED
    if len(pieces) <= most + 4:
        return pieces
    head, tail = most - most // 3, most // 3
    return [*pieces[:head], (f" \u2026 +{len(pieces) - head - tail:,} \u2026 ", role, value), *pieces[-tail:]]
