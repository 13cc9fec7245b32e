"""Numbers in a report: no float dust, thousands separators, "1 step", one format for one number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.analysis.tables import make_table, random_examples
from tests.report.numbers import faults

from sftloss.analysis import AnalysisOptions, LengthOptions, Lengths, describe_lengths, describe_signal
from sftloss.document import Document, Finding, Section

LOSSES = ("cross_entropy", "focal(gamma=2)")


@pytest.mark.parametrize("count, certain", [(40, 0.9), (90, 1 - 1e-7)])
def test_an_analysis_writes_numbers_in_one_way(count, certain):
    examples = random_examples(count)
    for example in examples[::3]:
        example["p"] = np.full(len(example["p"]), certain)
    options = AnalysisOptions(replicates=50, micro_batch=2, policy="per-token")
    assert list(faults(describe_signal(make_table(examples, objectives=LOSSES), options))) == []


@pytest.mark.parametrize("scale", [1, 1000])
def test_a_page_of_lengths_writes_numbers_in_one_way(scale):
    lengths = scale * np.random.default_rng(0).integers(1, 30, 60).astype(float)
    asked = LengthOptions(batch_size=1, grad_accum=1200, target_mean=9.0 * scale, replicates=50)
    assert list(faults(describe_lengths(Lengths(np.arange(60), lengths, lengths, np.arange(60) // 2), asked))) == []


@pytest.mark.slow  # a model is run
def test_the_demo_writes_numbers_in_one_way():
    from sftloss.pipeline import demo

    assert list(faults(demo().document)) == []


def test_each_fault_is_found():
    clean = Document("", ("1 step of 1,200 rows, 14 %.",), (), ())
    assert not list(faults(clean))
    for text in ("2.2e-14 % of all", "0.30000000000000004", "1200 rows", "1 steps"):
        assert len(list(faults(replace(clean, headlines=(text,))))) == 1
        assert len(list(faults(replace(clean, sections=(Section("a", "A", "", notes=(text,)),))))) == 1
    twice = Finding("A", "info", "14 % of the rows, exactly 14.3 %.", "")
    assert len(list(faults(replace(clean, findings=(twice,))))) == 1
