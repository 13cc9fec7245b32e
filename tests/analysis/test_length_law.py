"""Power laws in a report: where one fits its multiple is written, where none fits no exponent is advised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.analysis.tables import make_table

from sftloss.analysis import AnalysisOptions, describe_signal
from sftloss.logits import LossFunctionAnalyzer


def test_the_report_and_the_analyzer_of_logits_give_one_elasticity():
    """Two definitions once gave 1.13 and 1.98 on the same 400 numbers."""
    rng = np.random.default_rng(5)
    chances = [rng.beta(0.3, 0.3, rng.integers(3, 60)).clip(1e-4, 1 - 1e-4) for _ in range(400)]
    document = describe_signal(make_table([{"p": p} for p in chances]), AnalysisOptions(replicates=50))
    (section,) = (section for section in document.sections if section.id == "appendix")
    (row,) = (row for row in section.tables[0].rows if row[0] == "token mean")
    # a vocabulary of two: p is the sigmoid of the difference of the logits; the last row predicts nothing
    logits = [torch.tensor(np.stack([np.zeros(len(p) + 1), np.append(np.log(p / (1 - p)), 0)], 1)) for p in chances]
    sequences = [torch.ones(len(p) + 1, dtype=torch.int64) for p in chances]
    compared = LossFunctionAnalyzer(resamples=50).compare_loss_functions(sequences, logits)
    # p is a float32 in the table and in the analyzer
    assert compared["standard_ce"]["signal_elasticity"]["value"] == pytest.approx(row[1], abs=1e-5)


def bent_examples():
    """Known short examples, hard ones in the middle, known long ones: no power of length describes that."""
    sizes = [2 + i % 60 for i in range(240)]
    return [{"p": np.full(n, 0.3 if 18 < n < 40 else 0.995)} for n in sizes]


def test_where_no_power_fits_no_multiple_and_no_exponent_is_said():
    document = describe_signal(make_table(bent_examples()), AnalysisOptions(replicates=50, policy="per-example"))
    sections = {section.id: section for section in document.sections}
    assert sections["length"].lead.startswith("No power of length describes the signal under token mean")
    assert "twice the length gets" not in sections["length"].lead + sections["comparison"].lead
    assert "twice" not in {column.key for column in sections["comparison"].tables[0].columns}
    assert not sections["comparison"].charts and "No power of length" in sections["comparison"].lead
    rule = next(row for row in sections["advice"].tables[0].rows if row[0].startswith("equal signal"))
    assert "does not do it" in rule[1] and rule[-1] == ""
    (policy,) = (finding for finding in document.findings if finding.id == "NORM003")
    assert "no power of length fits" in policy.sentence and "normalization" not in policy.fix


def test_where_a_power_fits_the_multiple_is_said():
    rng = np.random.default_rng(1)
    examples = [{"p": rng.uniform(0.2, 0.9, rng.integers(5, 60))} for _ in range(240)]
    document = describe_signal(make_table(examples), AnalysisOptions(replicates=50))
    sections = {section.id: section for section in document.sections}
    assert sections["length"].lead.startswith("An example of twice the length gets this many times the signal: ")
    assert "No power" not in sections["length"].lead and "twice the length gets from" in sections["comparison"].lead
    rule = next(row for row in sections["advice"].tables[0].rows if row[0].startswith("equal signal"))
    assert rule[-1].startswith("--normalization")
