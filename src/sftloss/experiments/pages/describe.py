"""A finished comparison as a document: verdicts first, then what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sftloss.document import Command, Document, Section
from sftloss.experiments.experiment import Arm, Experiment
from sftloss.experiments.pages import groups, lengths, metrics, tasks, verdicts
from sftloss.experiments.run.results import Answer
from sftloss.experiments.verdicts.comparisons import Results, comparisons
from sftloss.experiments.verdicts.findings import Verdicts, comparison_findings, comparison_headlines
from sftloss.models import DESCRIPTIONS

_METHOD = (
    "Arms with the same seed start from the same weights and are trained on the same rows in the same order, so on "
    "the same number of tokens. Only the loss, the normalization or a weighting differs.",
    "Differences are paired by seed and example. Their standard error comes from a two-way analysis of variance in "
    "which seeds and examples (rows with one prompt together) are both drawn at random, each with its own Student "
    "quantile, and corrected for skewed differences of examples. It holds for seeds and examples like these, not for "
    "other models, data or training lengths. Where few examples decide a difference, it says so.",
    "All comparisons of all measures share one error rate (Bonferroni), and a verdict is an interval that excludes "
    "zero. Tables of groups and of further metrics are not part of this and get no verdicts.",
)


def experiment_document(
    experiment: Experiment,
    results: Results,
    answers: Mapping[Arm, Sequence[Answer]] | None = None,
    *,
    command: Command | None = None,
) -> Document:
    """The report of a comparison.

    Args:
        experiment: What was compared.
        results: Every arm with every seed.
        answers: Answers of each arm's first seed, shown side by side.
        command: The command line that asked for the comparison. Findings advise it with other values.
    """
    compared = comparisons(results)
    judged = Verdicts(experiment, results, compared, command)
    sections = (
        verdicts.verdicts_section(results, compared),
        verdicts.by_task_section(results, compared),
        metrics.metrics_section(results),
        metrics.curves_section(results),
        lengths.answer_lengths_section(results),
        groups.groups_section(results),
        groups.difficulty_section(results),
        tasks.task_weights_section(results),
        tasks.conflicts_section(results),
        metrics.calibration_section(results),
        metrics.forgetting_section(results),
        groups.answers_section(results, answers or {}),
        Section("method", "Method", "What was held equal, and what an interval means.", notes=_METHOD),
    )
    return Document(
        f"Comparison of {len(results.arms)} ways to train",
        comparison_headlines(judged),
        comparison_findings(judged),
        tuple(section for section in sections if section is not None),
        _facts(experiment, results),
        (
            *((("command", str(command)),) if command else ()),
            ("versions", ", ".join(f"{k} {v}" for k, v in sorted(results.first.versions.items()))),
            ("digest of the experiment", results.first.digest),
        ),
    )


def _facts(experiment: Experiment, results: Results) -> tuple[tuple[str, str], ...]:
    first, recipe = results.first, experiment.recipe
    shape = f"{experiment.layers} layers of width {experiment.width}"
    noise = f", {100 * experiment.noise:g}% of the answers wrong on purpose" if experiment.noise else ""
    pretrained = DESCRIPTIONS.get(recipe.model, recipe.model)
    return (
        ("model", f"Llama from scratch, {shape}" if experiment.is_scratch else pretrained),
        ("data", f"{'generated tasks' if experiment.is_generated else recipe.data}{noise}"),
        ("held-out rows", f"{len(first.groups.task):,}"),
        ("each training", f"{first.steps:,} steps, {_tokens(results)}"),
        ("seeds", ", ".join(map(str, results.seeds))),
        *((("tolerance of the gradients", f"{recipe.tolerance:g}"),) if recipe.tolerance else ()),
        ("first arm", results.reference),
    )


def _tokens(results: Results) -> str:
    """Tokens of the training passes and trained tokens; a range where seeds or arms differ."""
    every = results.by_trial.values()
    seen, trained = ({getattr(one, name) for one in every} for name in ("tokens", "trained_tokens"))
    return f"{_range(seen)} tokens seen, {_range(trained)} of them trained"


def _range(values: set[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
