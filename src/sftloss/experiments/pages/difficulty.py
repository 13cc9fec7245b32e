"""What a loss does to hard tokens and to easy ones: held-out tokens in three equal parts, arm by arm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sftloss.document import Column, Section, Table
from sftloss.experiments.metrics import Ratio
from sftloss.experiments.pages.sections import cells, folded
from sftloss.experiments.pages.words import listed
from sftloss.experiments.verdicts.findings import Names
from sftloss.experiments.verdicts.verdicts import Results

THIRDS = ("easy", "middle", "hard")


def difficulty(results: Results, names: Names) -> Section | None:
    """Loss and top-1 of each third, and the difference in loss from the first arm; where losses are compared."""
    split = by_difficulty(results) if len({arm.loss for arm in results.arms}) > 1 else None
    if split is None:
        return None
    rows, told = [], []
    for third in THIRDS:
        said = []
        for arm in results.arms:
            loss = cells(split.mean(arm, f"nll_{third}"), (0.0, np.inf))
            top1 = cells(split.mean(arm, f"top1_{third}"), (0.0, 1.0))
            change = None if arm == results.arms[0] else split.difference(arm, f"nll_{third}")
            rows.append((third, names[arm], *loss, *top1, *cells(change)))
            if change is not None:
                said.append(f"{names[arm]} {change.value:+.3g}")
        told.append(f"on {third} tokens {listed(tuple(said))}")
    columns = (
        Column("third", "tokens"),
        Column("arm", "arm"),
        *folded("nll", "loss per token", "nats"),
        *folded("top1", "top-1 tokens", "percent"),
        *folded("change", "loss, against the first arm"),
    )
    return Section(
        "difficulty",
        "Hard tokens and easy ones",
        f"Loss against {names[results.arms[0]]}, nats a token: {'; '.join(told)}.",
        tables=(Table("difficulty", "By difficulty of the token", columns, tuple(rows)),),
        notes=(
            "Thirds of the held-out tokens by their mean loss over all arms and seeds, the same for every arm. Thirds "
            "by one arm's loss would flatter the others: what one training got wrong by chance, another gets right.",
            "95% intervals over seeds and examples, each for itself: not corrected for their number.",
        ),
    )


def by_difficulty(results: Results) -> Results | None:
    """The same arms, their metrics now ``nll_easy`` to ``nll_hard`` and ``top1_easy`` to ``top1_hard``.

    None where arms have no scores of the same held-out tokens.
    """
    every = {trial: result.scores for trial, result in results.by_trial.items()}
    example = results.first.scores.example
    if not len(example) or any(not np.array_equal(one.example, example) for one in every.values()):
        return None
    code = thirds(np.stack([one.nll for one in every.values()]))
    examples = len(results.first.groups.task)

    def ratio(values: NDArray[np.floating] | NDArray[np.bool_], third: int) -> Ratio:
        rows = example[code == third]
        top = np.bincount(rows, values[code == third].astype(np.float64), examples)
        return Ratio(top.astype(np.float64), np.bincount(rows, minlength=examples).astype(np.float64))

    found = {
        trial: {
            f"{key}_{name}": ratio(values, i)
            for key, values in (("nll", one.nll), ("top1", one.is_top1))
            for i, name in enumerate(THIRDS)
        }
        for trial, one in every.items()
    }
    return replace(results, by_trial={trial: replace(results.by_trial[trial], metrics=found[trial]) for trial in every})


def thirds(losses: NDArray[np.floating]) -> NDArray[np.int64]:
    """Which third of the tokens each belongs to by its mean loss over all trainings, 0 the easiest, ``(tokens,)``.

    The mean treats all trainings alike. So if arms do not differ, none is better on hard tokens but by chance; were
    tokens sorted by the loss of one arm, its own chance errors would lie in its hard third and make it look worse.

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
