"""A finished comparison as a document: verdicts first, then what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sftloss.document import Document, Section
from sftloss.experiments.experiment import Arm, Experiment, arm_labels
from sftloss.experiments.pages.difficulty import difficulty
from sftloss.experiments.pages.groups import calibration, forgetting, groups, outputs
from sftloss.experiments.pages.lengths import lengths
from sftloss.experiments.pages.metrics import curves, metrics
from sftloss.experiments.pages.tasks import by_task, conflicts, task_weights
from sftloss.experiments.pages.verdicts import verdicts
from sftloss.experiments.run.results import Answer
from sftloss.experiments.verdicts.findings import findings, headlines
from sftloss.experiments.verdicts.verdicts import Results, comparisons

_METHOD = (
    "Arms of one seed start from the same weights, see the same rows in the same order and the same number of tokens; "
    "only the loss, the normalization or the weighting differs.",
    "Differences are paired by seed and example. Their standard error comes from a two-way analysis of variance with "
    "seeds and examples (rows of one prompt together) both drawn at random, each with its own Student quantile. "
    "It holds for seeds and examples like these, not for other models, data or training lengths.",
    "All comparisons of all measures are one family: intervals are Bonferroni's, and a verdict is an interval that "
    "excludes zero. Tables of groups and of further metrics are not part of the family and get no verdicts.",
)


def describe(
    experiment: Experiment, results: Results, said: Mapping[Arm, Sequence[Answer]] | None = None, *, command: str = ""
) -> Document:
    """The report of a comparison.

    Args:
        experiment: What was compared.
        results: Every arm with every seed.
        said: Answers of each arm's first seed, for the side by side.
        command: The command line that asks for the comparison; findings repeat it where it should be another.
    """
    names = dict(zip(results.arms, arm_labels(results.arms), strict=True))
    compared = comparisons(results)
    sections = (
        verdicts(results, compared, names),
        by_task(compared, names),
        metrics(experiment, results, names),
        curves(results, names),
        lengths(experiment, results, names),
        groups(results, names),
        difficulty(results, names),
        task_weights(results, names),
        conflicts(results, names),
        calibration(results, names),
        forgetting(results, names),
        outputs(results, names, said or {}),
        Section("method", "Method", "What was held equal, and what an interval means.", notes=_METHOD),
    )
    return Document(
        f"Comparison of {len(results.arms)} ways to train",
        headlines(results, compared, names),
        findings(results, compared, names, command),
        tuple(section for section in sections if section is not None),
        _facts(experiment, results, names[results.arms[0]]),
        (*((("command", command),) if command else ()),
         ("versions", ", ".join(f"{k} {v}" for k, v in sorted(results.first.versions.items()))),
         ("digest of the experiment", results.first.digest)),
    )  # fmt: skip


def _facts(experiment: Experiment, results: Results, reference: str) -> tuple[tuple[str, str], ...]:
    first = results.first
    recipe = experiment.recipe
    data = "generated tasks" if experiment.is_generated else recipe.data
    noise = f", {100 * experiment.noise:g}% of the answers wrong on purpose" if experiment.noise else ""
    shape = f"{experiment.layers} layers of width {experiment.width}"
    model = f"Llama from scratch, {shape}" if experiment.is_scratch else recipe.model
    return (
        ("model", model),
        ("data", f"{data}{noise}"),
        ("held-out rows", f"{len(first.groups.task):,}"),
        ("each training", f"{first.steps:,} steps, {_tokens(results)}"),
        ("seeds", ", ".join(map(str, results.seeds))),
        ("first arm", reference),
    )


def _tokens(results: Results) -> str:
    """Tokens given and trained, as a range where seeds or arms differ."""
    every = [one for arm in results.arms for one in results.of(arm)]
    seen, trained = ({getattr(one, name) for one in every} for name in ("tokens", "trained_tokens"))
    return f"{_range(seen)} tokens seen, {_range(trained)} of them trained"


def _range(values: set[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
