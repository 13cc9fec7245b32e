"""The page that a training ends with."""

from __future__ import annotations

from sftloss.data.demo import demo_tokenizer
from sftloss.finetune import Recipe
from sftloss.finetune.rows import read, rows_account
from sftloss.pipeline import training_curve


def test_the_curve_has_loss_and_cross_entropy_trained_and_held_out():
    history = [
        {"step": 10, "loss": 2.0, "cross_entropy": 3.0, "seen_tokens": 5.0},
        {"step": 10, "eval_loss": 2.5, "eval_cross_entropy": 3.5},
        {"step": 20, "loss": 1.0, "cross_entropy": 2.0},
        {"step": 20, "train_loss": 1.5},
    ]
    report = training_curve(history, {"recipe": {"loss": "dft", "model": "demo"}, "command": "sftloss train"})
    (chart,) = report.document.sections[0].charts
    assert {series.label: (series.x, series.y) for series in chart.series} == {
        "loss, trained": ((10.0, 20.0), (2.0, 1.0)),
        "cross-entropy, trained": ((10.0, 20.0), (3.0, 2.0)),
        "loss, held out": ((10.0,), (2.5,)),
        "cross-entropy, held out": ((10.0,), (3.5,)),
    }
    assert report.document.answer.lead == "After 20 steps: loss, held out, 2.50 nats (2.50 at step 10)."
    assert report.document.answer.tables[0].rows[0] == ("loss, trained", 2.0, 1.0, 1.0, 20)
    assert "<svg" in report.to_html() and ("loss", "dft") in report.document.facts


def test_curves_that_are_the_same_are_drawn_once():
    history = [{"step": at, "loss": 2.0 - at, "cross_entropy": 2.0 - at} for at in (1, 2)]
    (chart,) = training_curve(history, {}).document.sections[0].charts
    assert [series.label for series in chart.series] == ["loss, trained"]


def test_a_run_without_a_logged_loss_has_no_curve():
    document = training_curve([], {}).document
    assert document.answer.lead == "After 0 steps: no line of the log has a loss." and not document.sections[0].charts


def test_the_page_of_a_run_has_the_findings_about_its_rows():
    """It said that nothing needs action beside rows that lost the end of their answers."""
    rows = [{"prompt": f"copy: {i}", "response": "red " * 30} for i in range(8)] + [{"nothing": 1}]
    account = rows_account(read(Recipe(max_length=40), rows, demo_tokenizer()))
    page = training_curve([{"step": 1, "loss": 2.0}], {"rows": [account]})
    (refused, cut) = page.document.findings
    assert (refused.id, refused.rows, cut.id, cut.severity) == ("DATA009", ("row 8",), "MASK007", "warning")
    assert cut.sentence == "8 of 9 rows (89 %) are truncated: 8 lose the end of their last answer."
    assert "--truncate drop" in str(cut.fix) and "needs action" not in page.to_html()
