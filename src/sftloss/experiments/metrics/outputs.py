"""Metrics of generated answers: correctness, length, repetition and diversity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import comb

import numpy as np

from sftloss.data.examples import Record
from sftloss.data.tasks import abstains, check_answer, is_answerable, question
from sftloss.experiments.metrics.generation import Generated
from sftloss.experiments.metrics.shapes import Gap, Metric, Ratio

Outputs = tuple[Generated, ...]
_PASS = "pass_at_"


def output_metrics(outputs: Sequence[Generated], rows: Sequence[Record]) -> dict[str, Metric]:
    r"""Metrics of outputs against the rows they answer, over rows; a row's value is the mean over its k samples.

    ====================  =====================================================================================
    name                  definition
    ====================  =====================================================================================
    exact_match           the task checker's score, over the rows that have a checker
    length                tokens of an output, the end included
    length_ratio          :math:`\sum_i \mathrm{length}_i / \sum_i T_i`: ratio of the means, generated to reference
    length_ks             :math:`\max_x |F_{generated}(x) - F_{reference}(x)|`, Kolmogorov-Smirnov distance
    truncated             share of outputs cut off at the limit; above 0, lengths are too small
    empty                 share of outputs without a word
    repetition            1 - distinct 4-grams / 4-grams in an output, mean over rows with outputs that long
                          (seq-rep-4: Welleck et al., 2020, arXiv:1908.04319)
    abstains_unknown      share of "unknown" among the questions that have no answer: higher is better
    abstains_known        share of "unknown" among those that have one: lower is better
    ====================  =====================================================================================

    With k > 1 samples a row also, where k samples of one row are compared with each other:

    ====================  =====================================================================================
    distinct_1, _2        distinct n-grams / n-grams over the samples of a row, sums over rows (Li et al., 2016,
                          arXiv:1510.03055, there over a corpus, which depends on its size)
    unique                different outputs / k
    self_consistency      the checker's score of the most common output, ties shared (Wang et al., 2023,
                          arXiv:2203.11171)
    pass_at_n             :math:`1 - \binom{k-c}{n} / \binom{k}{n}` with c right of k, unbiased (Chen et al., 2021,
                          arXiv:2107.03374), n = 1, 2, 4, ... up to k; a score counts as right at 1
    ====================  =====================================================================================

    n-grams are of tokens. Names of metrics that no row has a value for are left out.

    Args:
        outputs: From `generate`, for exactly these rows, equally many a row.
        rows: The records.

    Raises:
        ValueError: If outputs and rows do not belong together.
    """
    groups = _by_row(outputs, rows)
    pairs = list(zip(groups, rows, strict=True))
    scores = [[check_answer(row, question(row), output.text) for output in group] for group, row in pairs]
    right = [None if None in row else [float(s or 0.0) for s in row] for row in scores]  # None: no checker
    unknown = [np.mean([abstains(output.text) for output in group]) for group in groups]
    answerable = [is_answerable(row, question(row)) for row in rows]
    metrics: dict[str, Metric] = {
        "exact_match": _mean(None if row is None else np.mean(row) for row in right),
        **_length_metrics(groups),
        "repetition": _mean(_repetition(group) for group in groups),
        "abstains_unknown": _mean(s if a is False else None for s, a in zip(unknown, answerable, strict=True)),
        "abstains_known": _mean(s if a is True else None for s, a in zip(unknown, answerable, strict=True)),
    }
    if len(groups[0]) > 1:
        metrics |= _sample_metrics(groups, right)
    return {name: one for name, one in metrics.items() if not (isinstance(one, Ratio) and not one.bottom.any())}


def _by_row(outputs: Sequence[Generated], rows: Sequence[Record]) -> list[Outputs]:
    groups: list[list[Generated]] = [[] for _ in rows]
    for output in outputs:
        if not 0 <= output.row < len(rows):
            raise ValueError(f"output_metrics: an output is of row {output.row}, there are {len(rows)} rows.")
        groups[output.row].append(output)
    sizes = {len(group) for group in groups}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"output_metrics: every row needs equally many outputs, there are {sorted(sizes)} per row.")
    return [tuple(group) for group in groups]


def _mean(values: Iterable[float | np.floating | None]) -> Ratio:
    """A mean over the rows that have a value."""
    array = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return Ratio(np.nan_to_num(array), np.isfinite(array).astype(np.float64))


def _length_metrics(groups: Sequence[Outputs]) -> dict[str, Metric]:
    lengths = np.array([[output.length for output in group] for group in groups], dtype=np.float64)
    own = np.array([group[0].reference_length for group in groups], dtype=np.float64)
    # the distribution functions at every length that occurs, where they can differ most
    grid = np.unique(np.concatenate([lengths.ravel(), own]))
    below = np.stack([(lengths <= x).mean(axis=1) - (own <= x) for x in grid], axis=1)
    return {
        "length": _mean(lengths.mean(axis=1)),
        "length_ratio": Ratio(lengths.mean(axis=1), own),
        "length_ks": Gap(below, np.ones(len(groups)), "max"),
        "truncated": _mean(np.mean([not output.ended for output in group]) for group in groups),
        "empty": _mean(np.mean([not output.text.strip() for output in group]) for group in groups),
    }


def _ngrams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _repetition(group: Outputs) -> float | None:
    shares = [1 - len(set(grams)) / len(grams) for output in group if (grams := _ngrams(output.tokens, 4))]
    return float(np.mean(shares)) if shares else None


def _sample_metrics(groups: Sequence[Outputs], right: Sequence[list[float] | None]) -> dict[str, Metric]:
    """Metrics of several outputs of one row."""
    samples, metrics = len(groups[0]), dict[str, Metric]()
    for n in (1, 2):
        grams = [[gram for output in group for gram in _ngrams(output.tokens, n)] for group in groups]
        sizes = np.array([[len(set(row)), len(row)] for row in grams], dtype=np.float64)
        metrics[f"distinct_{n}"] = Ratio(sizes[:, 0], sizes[:, 1])
    counts = [Counter(output.text.strip() for output in group) for group in groups]
    metrics["unique"] = _mean(len(count) / samples for count in counts)
    scored = list(zip(groups, right, strict=True))
    metrics["self_consistency"] = _mean(None if row is None else _majority(group, row) for group, row in scored)
    for n in (2**k for k in range(samples.bit_length())):
        metrics[f"{_PASS}{n}"] = _mean(
            None if row is None else pass_at(n, samples, sum(score >= 1 for score in row)) for row in right
        )
    return metrics


def pass_counts(names: Iterable[str]) -> tuple[int, ...]:
    """Every n of which there is a pass@n among names of metrics, smallest first.

    Example:
        >>> pass_counts(["unique", "pass_at_16", "pass_at_2"])
        (2, 16)
    """
    return tuple(sorted({int(name.removeprefix(_PASS)) for name in names if name.startswith(_PASS)}))


def _majority(group: Outputs, scores: Sequence[float]) -> float:
    """The score of the most common output, ties shared."""
    counts = Counter(output.text.strip() for output in group)
    most = max(counts.values())
    score_of = {output.text.strip(): score for output, score in zip(group, scores, strict=True)}
    return float(np.mean([score_of[text] for text, count in counts.items() if count == most]))


def pass_at(n: int, samples: int, right: int) -> float:
    r"""Probability that n outputs drawn without replacement from the samples hold a right one.

    .. math:: 1 - \binom{k - c}{n} \Big/ \binom{k}{n}

    It is unbiased for the probability that n independent outputs hold a right one.

    Args:
        n: Outputs allowed, from 1 to `samples`.
        samples: Outputs made, k.
        right: How many of them are right, c.

    Raises:
        ValueError: If the three contradict each other.

    Example:
        >>> pass_at(2, 4, 1)
        0.5

    Source:
        Chen et al., *Evaluating Large Language Models Trained on Code*, 2021, eq. 1 (arXiv:2107.03374).
    """
    if not (1 <= n <= samples and 0 <= right <= samples):
        raise ValueError(f"pass_at: cannot take {n} of {samples} samples of which {right} are right.")
    return 1.0 - comb(samples - right, n) / comb(samples, n)
