"""The page that a training ends with: loss and cross-entropy by step, trained and held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sftloss.data.account import ROW_RULES
from sftloss.data.overlap import OVERLAP_RULES
from sftloss.data.reasons import ROW_REASONS
from sftloss.document import Chart, Column, Document, Finding, Section, Series, Table, by_severity
from sftloss.report import Report
from sftloss.report.language import in_language
from sftloss.rules import Rule
from sftloss.words import agreeing, counted, number, part_of

_CURVES = {
    "loss": "loss, trained",
    "cross_entropy": "cross-entropy, trained",
    "eval_loss": "loss, held out",
    "eval_cross_entropy": "cross-entropy, held out",
}


def training_curve(history: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], lang: str = "en") -> Report:
    """The curves of a run.

    Args:
        history: The lines of ``history.jsonl``, each with its `step`.
        facts: ``train.json``.
        lang: Language of the page.

    Example:
        >>> lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]
        >>> training_curve(lines, {"recipe": {"loss": "dft"}}).document.answer.lead
        'After 2 steps: loss, trained, 1.50 nats (2 at step 1).'
    """
    points = {key: [(line["step"], float(line[key])) for line in history if key in line] for key in _CURVES}
    # under plain cross-entropy both curves are one
    same = [key for key in points if key.endswith("cross_entropy") and _are_equal(points, key)]
    points = {key: of for key, of in points.items() if of and key not in same}
    steps = counted(max((line["step"] for line in history), default=0), "step")
    lead = f"After {steps}: no line of the log has a loss."
    if points:
        main = "eval_loss" if "eval_loss" in points else next(iter(points))
        (first, before), (_, after) = points[main][0], points[main][-1]
        lead = f"After {steps}: {_CURVES[main]}, {number(after)} nats ({number(before)} at step {first:,})."
    series = tuple(
        Series(_CURVES[key], tuple(float(x) for x, _ in of), tuple(y for _, y in of)) for key, of in points.items()
    )
    chart = Chart("curve", "line", "Loss by step", "step", "nats", series, lead, format_x="integer", format_y="nats")
    rows = tuple((_CURVES[key], of[0][1], of[-1][1], *min((y, x) for x, y in of)) for key, of in points.items())
    columns = (
        Column("curve", "curve"),
        Column("first", "first", "nats"),
        Column("last", "last", "nats"),
        Column("lowest", "lowest", "nats"),
        Column("step", "at step", "integer"),
    )
    tables, charts = ((Table("curve", "Curves", columns, rows),), (chart,)) if points else ((), ())
    recipe = facts.get("recipe", {})
    shown = {key: recipe.get(key) for key in ("model", "data", "loss", "normalization", "learning_rate")}
    named = tuple((key.replace("_", " "), str(value)) for key, value in shown.items() if value is not None)
    answer = Section("answer", "Answer", lead, charts=charts, tables=tables)
    command = facts.get("command")
    findings = by_severity(one for account in facts.get("rows") or () for one in _row_findings(account))
    document = Document("Training", (), findings, (answer,), named, (("command", command),) if command else ())
    return Report(in_language(document, lang))


def _row_findings(account: Mapping[str, Any]) -> Iterator[Finding]:
    """What the account of a source's rows in ``train.json`` has to tell: refused, truncated, and the notes."""
    rules: dict[str, Rule[Any]] = {rule.id: rule for rule in ROW_RULES} | {rule.id: rule for rule in OVERLAP_RULES}
    read = account["read"]
    for name, refused in account["refused"].items():
        rule = rules[ROW_REASONS[name].code]
        sentence = f"{part_of(refused['rows'], read, 'rows', refused['reason'])}."
        yield Finding(rule.id, rule.severity, sentence, rule.why, rule.cure, rows=tuple(refused["first"]))
    if cut := account["truncated"]:
        rule, lost = rules["MASK007"], account["end_of_answer_lost"]
        sentence = part_of(cut, read, "rows", "are truncated")
        sentence += f": {lost:,} {agreeing(lost, 'lose')} the end of their last answer." if lost else "."
        yield Finding(rule.id, rule.severity if cut > 0.01 * read else "info", sentence, rule.why, rule.cure)
    for line in account["findings"]:
        id, _, sentence = line.partition(": ")
        rule = rules[id]
        yield Finding(id, rule.severity, sentence, rule.why, rule.cure)


def _are_equal(points: Mapping[str, Sequence[tuple[int, float]]], key: str) -> bool:
    """Whether a curve of cross-entropy is that of the loss, to rounding."""
    losses = points[key.replace("cross_entropy", "loss")]
    pairs = list(zip(losses, points[key], strict=False))
    return len(losses) == len(points[key]) and all(abs(a - b) <= 1e-4 * abs(a) for (_, a), (_, b) in pairs)
