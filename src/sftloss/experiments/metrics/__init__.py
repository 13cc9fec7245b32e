"""Metrics of a trained model on held-out rows. Each keeps what every row contributes, so that arms can be paired.

* :func:`evaluate_tokens`: one forward pass to a :class:`TokenTable`. Of the table, :func:`token_metrics` makes losses,
  accuracy, calibration, entropy and the calibration of the end; :func:`reliability` and :func:`end_reliability` make
  the diagrams.
* :func:`generate`: answers of a model. Of them, :func:`output_metrics` makes right answers, lengths, repetition,
  diversity, pass@k and abstention.
* :func:`forgetting`: how far training moved the model on other data.
* :func:`crossed_mean`, :func:`paired_difference`: means and differences with their error over examples and seeds.

Every metric is a :class:`Ratio` of sums over rows or a :class:`Gap` between two distributions. It can be evaluated on
any resampling of the rows (:class:`Metric`) and read back from JSON (:func:`read_metric`).
"""

from __future__ import annotations

from sftloss.experiments.metrics.differences import Mean, crossed_mean, linearised, paired_difference
from sftloss.experiments.metrics.drift import forgetting
from sftloss.experiments.metrics.generation import Generated, Sampling, generate
from sftloss.experiments.metrics.outputs import output_metrics, pass_at, pass_counts
from sftloss.experiments.metrics.shapes import Gap, Metric, Ratio, read_metric
from sftloss.experiments.metrics.tokens import (
    Bin,
    TokenTable,
    end_reliability,
    evaluate_tokens,
    reliability,
    token_metrics,
)

__all__ = [
    "Bin",
    "Gap",
    "Generated",
    "Mean",
    "Metric",
    "Ratio",
    "Sampling",
    "TokenTable",
    "crossed_mean",
    "end_reliability",
    "evaluate_tokens",
    "forgetting",
    "generate",
    "linearised",
    "output_metrics",
    "paired_difference",
    "pass_at",
    "pass_counts",
    "read_metric",
    "reliability",
    "token_metrics",
]
