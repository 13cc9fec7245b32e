"""`sftloss.inspect`: rows and a tokenizer to a report, and the examples of its page."""

from __future__ import annotations

import json
import re

import pytest
from tests.paths import ROOT

import sftloss
from sftloss.analysis.mask.inspect import InspectOptions
from sftloss.data import FORMATS
from sftloss.data.demo import demo_tokenizer
from sftloss.errors import ConfigError, DataError
from sftloss.pipeline import Run
from sftloss.report import Report

ROWS = [{"prompt": f"copy: {word}", "response": word} for word in ("red", "fig", "cat")]


def ids(report: Report) -> set[str]:
    return {finding.id for finding in report.document.findings}


def test_inspect_takes_rows_or_a_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    from_rows, from_file = (sftloss.inspect(source, demo_tokenizer()).document for source in (ROWS, path))
    assert from_rows.headlines == from_file.headlines and from_rows.headlines[0].startswith("3 of 3 rows")
    assert from_rows.findings == from_file.findings == ()


def test_inspect_reads_as_its_run_says():
    run = Run(columns={"prompt": "q", "response": "a"}, max_examples=2, max_length=14)
    rows = [{"q": "copy: red", "a": "red " * 20} for _ in range(3)]
    report = sftloss.inspect(rows, demo_tokenizer(), run=run)
    assert report.document.headlines[0].startswith("2 of 2 rows") and "MASK007" in ids(report)


def test_inspect_shows_as_its_question_says():
    report = sftloss.inspect(ROWS, demo_tokenizer(), question=InspectOptions(examples=1, batch_size=2))
    (trained,) = (section for section in report.document.sections if section.id == "trained")
    assert len(trained.strips) == 1
    assert "micro-batches per epoch" in str(report.document)


def test_unusable_rows_are_findings_however_many_unless_the_run_raises():
    rows = [{"nothing": 1}] * 5
    assert ids(sftloss.inspect(rows, demo_tokenizer())) == {"DATA009"}
    with pytest.raises(DataError, match="row 0: DATA009"):
        sftloss.inspect(rows, demo_tokenizer(), run=Run(on_error="raise"))
    with pytest.raises(DataError, match="No usable row"):
        sftloss.inspect([], demo_tokenizer())


def test_inspect_writes_where_its_run_says_and_not_over_a_report(tmp_path):
    run = Run(output=tmp_path / "out")
    sftloss.inspect(ROWS, demo_tokenizer(), run=run)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]
    with pytest.raises(ConfigError, match="already has"):
        sftloss.inspect(ROWS, demo_tokenizer(), run=run)


def test_the_python_of_its_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "inspect.md").read_text("utf-8"), re.S)
    assert len(blocks) == 2
    try:
        for block in blocks:
            exec(block, {"tokenizer": demo_tokenizer()})
        assert "ask/tell" in FORMATS
    finally:
        FORMATS.pop("ask/tell", None)
    assert capsys.readouterr().out.startswith("DATA009 1 of 2 rows") and (tmp_path / "inspect.html").is_file()
