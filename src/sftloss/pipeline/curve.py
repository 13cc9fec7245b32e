"""The page that a training ends with: loss and cross-entropy by step, trained and held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sftloss.document import Chart, Column, Document, Section, Series, Table
from sftloss.report import Report
from sftloss.report.language import in_language
from sftloss.words import counted, number

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
    document = Document("Training", (), (), (answer,), named, (("command", command),) if command else ())
    return Report(in_language(document, lang))


def _are_equal(points: Mapping[str, Sequence[tuple[int, float]]], key: str) -> bool:
    """Whether a curve of cross-entropy is that of the loss, to rounding."""
    losses = points[key.replace("cross_entropy", "loss")]
    pairs = list(zip(losses, points[key], strict=False))
    return len(losses) == len(points[key]) and all(abs(a - b) <= 1e-4 * abs(a) for (_, a), (_, b) in pairs)
