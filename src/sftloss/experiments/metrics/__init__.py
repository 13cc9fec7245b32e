"""Metrics of a trained model on held-out rows, as what each row contributes: so that arms can be compared in pairs.

* :func:`evaluate_tokens`: one forward pass to a :class:`TokenTable`; :func:`token_metrics` of it: losses, accuracy,
  calibration, entropy, the end; :func:`reliability` and :func:`end_reliability` are the diagrams.
* :func:`output_metrics`: of what `sftloss.experiments.generate` wrote: right answers, lengths, repetition, diversity,
  pass@k, abstention.
* :func:`forgetting`: against the start, on a second data file.
* :func:`paired_difference`: of any metric between two arms, with its error over examples and seeds.

Every metric is a :class:`Ratio` of sums over rows or a :class:`Gap` between two distributions. It knows its value on
any resampling of the rows (:class:`Metric`), can be restricted to groups (:func:`by_group`), and comes back from JSON
(:func:`read_metric`).
"""

from __future__ import annotations

from sftloss.experiments.metrics.differences import paired_difference
from sftloss.experiments.metrics.drift import forgetting
from sftloss.experiments.metrics.of_outputs import output_metrics, pass_at, pass_counts
from sftloss.experiments.metrics.of_tokens import Bin, end_reliability, reliability, token_metrics
from sftloss.experiments.metrics.shapes import Gap, Metric, Ratio, by_group, read_metric
from sftloss.experiments.metrics.tokens import TokenTable, evaluate_tokens

__all__ = [
    "Bin",
    "Gap",
    "Metric",
    "Ratio",
    "TokenTable",
    "by_group",
    "end_reliability",
    "evaluate_tokens",
    "forgetting",
    "output_metrics",
    "paired_difference",
    "pass_at",
    "pass_counts",
    "read_metric",
    "reliability",
    "token_metrics",
]
