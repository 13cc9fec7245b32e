"""Sections by group of rows and by answer: tasks and languages, hard and easy tokens, sample answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sftloss.analysis.shared.words import label_of
from sftloss.document import Column, Section, Table
from sftloss.experiments.experiment import Arm
from sftloss.experiments.metrics import Ratio
from sftloss.experiments.pages import tables
from sftloss.experiments.pages.tables import ShownMetric, Side
from sftloss.experiments.run.results import Answer
from sftloss.experiments.verdicts.comparisons import Results
from sftloss.numbers import Codes
from sftloss.words import listed

_GROUPED = (
    ShownMetric("token_nll", "loss per token", "nats"),
    ShownMetric("example_nll", "loss per example", "nats"),
    ShownMetric("exact_match", "right answers", "percent"),
    ShownMetric("length_ratio", "length over reference", "ratio"),
)
_NOT_CORRECTED = "95 % intervals over seeds and examples. They are not corrected for their number."
_ANSWERS, _WIDE = 12, 4
THIRDS = ("easy", "middle", "hard")
OUTPUTS = "outputs"


def groups_section(results: Results) -> Section | None:
    """Losses, right answers and lengths of each task and language."""
    groups = results.first.groups
    by_group = [
        table
        for name, labels in (("task", groups.task), ("language", groups.language))
        if len(set(labels) - {""}) > 1
        for one in _GROUPED
        if results.mean(results.arms[0], one.key) is not None
        for table in tables.in_parts(_group_table(results, np.asarray(labels), name, one))
    ]
    if not by_group:
        return None
    return Section(
        "groups",
        "Tasks and languages",
        "An arm may gain in one task what it loses in another. Groups with few examples have wide intervals.",
        tables=tuple(by_group),
        notes=(f"The number of held-out examples stands beside each name. {_NOT_CORRECTED}",),
    )


def _group_table(results: Results, labels: np.ndarray, name: str, one: ShownMetric) -> Table:
    """One metric, group by arm."""
    chosen = {str(group): labels == group for group in sorted(set(labels) - {""})}
    return tables.two_way_table(
        f"groups-{name}-{one.key}",
        f"{one.label[0].upper()}{one.label[1:]} by {name}",
        Side(name, [f"{label_of(name, group)} ({int(where.sum()):,})" for group, where in chosen.items()]),
        Side("arm", [results.names[arm] for arm in results.arms]),
        [[tables.value_cells(results, arm, one, where) for arm in results.arms] for where in chosen.values()],
        one.kind,
    )


def difficulty_section(results: Results) -> Section | None:
    """Loss and top-1 of each third of the tokens by difficulty; None where losses are not compared."""
    split = by_difficulty(results) if len({arm.loss for arm in results.arms}) > 1 else None
    if split is None:
        return None
    rows, parts = [], []
    for third in THIRDS:
        changes = []
        for arm in results.arms:
            loss = tables.mean_cells(split.mean(arm, f"nll_{third}"), (0.0, np.inf))
            top1 = tables.mean_cells(split.mean(arm, f"top1_{third}"), (0.0, 1.0))
            change = None if arm == results.arms[0] else split.difference(arm, f"nll_{third}")
            rows.append((third, results.names[arm], *loss, *top1, *tables.mean_cells(change)))
            if change is not None:
                changes.append(f"{results.names[arm]} {change.value:+.3g}")
        parts.append(f"on {third} tokens {listed(changes)}")
    columns = (
        Column("third", "tokens"),
        Column("arm", "arm"),
        *tables.triple_columns("nll", "loss per token", "nats"),
        *tables.triple_columns("top1", "top-1 tokens", "percent"),
        *tables.triple_columns("change", "loss, against the first arm"),
    )
    return Section(
        "difficulty",
        "Hard and easy tokens",
        f"Difference in loss from {results.reference}, nats per token: {'; '.join(parts)}.",
        tables=(Table("difficulty", "By difficulty of the token", columns, tuple(rows)),),
        notes=(
            "Thirds of the held-out tokens by their mean loss over all arms and seeds, the same for every arm. Thirds "
            "by one arm's loss would favour the others: what one training got wrong by chance, another got right.",
            _NOT_CORRECTED,
        ),
    )


def by_difficulty(results: Results) -> Results | None:
    """The same arms with the metrics ``nll_easy`` to ``nll_hard`` and ``top1_easy`` to ``top1_hard``.

    None where arms have no scores of the same held-out tokens.
    """
    scores = {trial: result.scores for trial, result in results.by_trial.items()}
    example = results.first.scores.example
    if not len(example) or any(not np.array_equal(one.example, example) for one in scores.values()):
        return None
    code = thirds(np.stack([one.nll for one in scores.values()]))
    examples = len(results.tasks)

    def ratio(values: NDArray[np.floating] | NDArray[np.bool_], third: int) -> Ratio:
        rows = example[code == third]
        top = np.bincount(rows, values[code == third].astype(np.float64), examples)
        return Ratio(top.astype(np.float64), np.bincount(rows, minlength=examples).astype(np.float64))

    by_trial = {
        trial: replace(results.by_trial[trial], metrics={
            f"{key}_{name}": ratio(values, i)
            for key, values in (("nll", one.nll), ("top1", one.is_top1))
            for i, name in enumerate(THIRDS)
        })
        for trial, one in scores.items()
    }  # fmt: skip
    return replace(results, by_trial=by_trial)


def thirds(losses: NDArray[np.floating]) -> Codes:
    """The third of the tokens to which each belongs by its mean loss over all trainings, 0 the easiest, ``(tokens,)``.

    The mean treats all trainings alike, so arms that do not differ show no difference on hard tokens except by chance.
    Sorted by one arm's loss, that arm's own chance errors would lie in its hard third and make it look worse.

    Args:
        losses: ``(trainings, tokens)``, nats.

    Example:
        >>> thirds(np.array([[0.1, 3.0, 0.5], [0.3, 2.0, 0.4]]))
        array([0, 2, 1])
    """
    count = losses.shape[1]
    code = np.empty(count, dtype=np.int64)
    code[np.argsort(losses.mean(axis=0, dtype=np.float64), kind="stable")] = np.arange(count) * len(THIRDS) // count
    return code


def answers_section(results: Results, answers: Mapping[Arm, Sequence[Answer]]) -> Section | None:
    """Greedy answers of the first seed side by side, differing ones first, tasks in turn."""
    arms = [arm for arm in results.arms if answers.get(arm)]
    if not arms:
        return None
    rows = list(zip(*(answers[arm] for arm in arms), strict=True))
    differing = [i for i, row in enumerate(rows) if len({answer.greedy for answer in row}) > 1]
    picked = (_in_turn(differing, results.first.groups.task) or list(range(len(rows))))[:_ANSWERS]
    columns = [Column("prompt", "prompt")]
    cells: list[tuple[str, ...]] = []
    if len(arms) <= _WIDE:
        columns += [Column("reference", "reference")]
        columns += [Column(f"arm{i}", results.names[arm]) for i, arm in enumerate(arms)]
        cells = [(rows[i][0].prompt, rows[i][0].reference, *map(_marked, rows[i])) for i in picked]
    else:
        columns += [Column("arm", "arm"), Column("answer", "answer")]
        for row in (rows[i] for i in picked):
            cells.append((row[0].prompt, "reference", row[0].reference))
            cells += [("", results.names[arm], _marked(answer)) for answer, arm in zip(row, arms, strict=True)]
    note = "✓ right, ✗ wrong, where the task has a checker."
    table = Table(OUTPUTS, "Greedy answers, first seed", tuple(columns), tuple(cells), note=note)
    lead = f"Arms gave different answers to {len(differing)} of {len(rows)} held-out prompts. Some of them:"
    return Section(OUTPUTS, "Sample answers", lead, tables=(table,))


def _marked(answer: Answer) -> str:
    mark = {None: "", 1.0: " ✓", 0.0: " ✗"}.get(answer.score, "")
    return (answer.greedy or "(empty)") + mark


def _in_turn(rows: Sequence[int], tasks: Sequence[str]) -> list[int]:
    """One row of each task, then the next of each, so that a large task does not fill the table."""
    by_task: dict[str, list[int]] = {}
    for i in rows:
        by_task.setdefault(tasks[i] if i < len(tasks) else "", []).append(i)
    turns = max((len(v) for v in by_task.values()), default=0)
    return [by_task[t][k] for k in range(turns) for t in sorted(by_task) if k < len(by_task[t])]
