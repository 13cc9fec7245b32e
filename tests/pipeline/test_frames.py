"""`sftloss.analyze(...)` from Python: data frames by name, beside the page, the JSON and the Markdown."""

from __future__ import annotations

import pytest

from sftloss import analyze
from sftloss.analysis import AnalysisOptions
from sftloss.data.demo import demo_model, demo_tokenizer
from sftloss.errors import ConfigError
from sftloss.weights import EXAMPLE_MEAN

ROWS = [
    {"prompt": f"copy: {word}", "completion": word, "task": "ab"[i % 2]}
    for i, word in enumerate(("fig", "plum", "red fox", "blue bird", "hen pig duck", "pear tree"))
]


@pytest.fixture(scope="module")
def report():
    question = AnalysisOptions(normalization=EXAMPLE_MEAN, level="S0", group_by=("task",), replicates=50)
    return analyze(demo_model(), demo_tokenizer(), ROWS, losses=["cross_entropy", "dft"], question=question)


def test_examples_are_a_data_frame_with_losses_and_signal(report):
    examples = report.frames["examples"]
    assert examples.height == len(ROWS) and examples["task"].to_list() == list("ababab")
    assert {"loss:cross_entropy", "loss:dft", "trained_tokens", "weight", "signal"} <= set(examples.columns)
    # at S0 the example mean gives every example the same
    assert examples["signal"].to_list() == pytest.approx([1 / len(ROWS)] * len(ROWS))


def test_a_loss_of_an_example_is_its_models_own(report):
    import torch

    model, tokenizer = demo_model(), demo_tokenizer()
    messages = [{"role": "user", "content": ROWS[2]["prompt"]}, {"role": "assistant", "content": ROWS[2]["completion"]}]
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True)["input_ids"]
    ids = torch.tensor([prompt + tokenizer(ROWS[2]["completion"])["input_ids"] + [tokenizer.eos_token_id]])
    labels = ids.clone()
    labels[0, : len(prompt)] = -100
    with torch.no_grad():
        own = model(ids, labels=labels).loss.item()
    assert report.frames["examples"]["loss:cross_entropy"][2] == pytest.approx(own, rel=1e-4)  # float32 both


def test_every_table_of_the_report_is_a_data_frame(report):
    for section in report.document.sections:
        for table in section.tables:
            frame = report.frames[table.id]
            assert frame.columns == [column.key for column in table.columns] and frame.height == len(table.rows)
    assert report.frames["task"]["group"].to_list() == ["a", "b"]


def test_the_report_is_shown_in_a_notebook_and_written_as_a_page(report, tmp_path):
    page = report.to_html(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == page
    assert report._repr_html_().startswith("<iframe") and "S0 nominal" in page


def test_a_level_that_the_model_cannot_give_is_refused_before_the_data_is_run():
    model = demo_model()
    model.lm_head.register_forward_hook(lambda _, inputs, output: output.sin())
    with pytest.raises(ConfigError, match="^level: S2 reads the last layer, and .*; choose S0 or S1"):
        analyze(model, demo_tokenizer(), ROWS, question=AnalysisOptions(level="S2"))
