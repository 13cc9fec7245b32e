"""A finished comparison as a document: verdicts first, then what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sftloss.document import Command, Document
from sftloss.experiments.experiment import Arm, Experiment
from sftloss.experiments.pages import groups, lengths, method, metrics, steps, tasks, verdicts
from sftloss.experiments.run.results import Answer
from sftloss.experiments.verdicts.comparisons import ALSO_JUDGED, Results, comparisons, measures_of
from sftloss.experiments.verdicts.findings import Verdicts, comparison_findings, comparison_headlines


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
    also = tuple(ALSO_JUDGED[key] for key in experiment.also_judged)
    compared = comparisons(results, (*measures_of(results), *also))
    judged = Verdicts(experiment, results, compared, command)
    sections = (
        verdicts.verdicts_section(results, compared),
        verdicts.by_task_section(results, compared),
        metrics.metrics_section(results),
        metrics.curves_section(results),
        lengths.answer_lengths_section(results),
        steps.length_steps_section(results),
        groups.groups_section(results),
        groups.difficulty_section(results),
        tasks.task_weights_section(results),
        tasks.conflicts_section(results),
        metrics.calibration_section(results),
        metrics.forgetting_section(results),
        groups.answers_section(results, answers or {}),
        method.comparison_method(experiment, results),
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
    first = results.first
    seen, trained = ({getattr(one, name) for one in results.by_trial.values()} for name in ("tokens", "trained_tokens"))
    tokens = f"{method.span(seen)} tokens seen, {method.span(trained)} of them trained"
    return (
        ("model", method.model_words(experiment)),
        ("data", method.data_words(experiment)),
        ("held-out rows", f"{len(first.groups.task):,}"),
        ("each training", f"{first.steps:,} steps, {tokens}"),
        ("seeds", ", ".join(map(str, results.seeds))),
        *((("tolerance of the gradients", f"{experiment.recipe.tolerance:g}"),) if experiment.recipe.tolerance else ()),
        ("first arm", results.reference),
    )
